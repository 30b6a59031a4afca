"""Windows: exact cover for any sizes, bounds equal to rasterio's, and matching windows on other grids."""

from fractions import Fraction

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window, bounds

from rspretrain.archives.tiling import Cut, Grid, cut, offsets, ratio, stride_of

GRID = Grid("EPSG:32633", 819627.364339148, 10340.0, 10.0, -10.0, 1068, 1068)  # Major TOM's
DEGREES = Grid(
    "EPSG:4326", 73.29254430236014, 30.47557326306315, 0.0001014112844859978, -8.797200686307421e-05, 264, 264
)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 200), st.integers(1, 60), st.floats(0, 0.9), st.integers(1, 6), st.sampled_from(["shift", "drop"])
)
def test_exact_cover(size, units, overlap, unit, edge):
    window = units * unit
    stride = stride_of(window, overlap, unit)
    first = offsets(size, window, stride, edge)
    seen = np.zeros(size, dtype=int)
    for start in first:
        assert 0 <= start <= size - window
        seen[start : start + window] += 1
    assert first == sorted(set(first))
    assert (first == []) == (window > size)
    if first and edge == "shift":
        assert seen.min() == 1 or overlap > 0 or seen.max() == 2
        assert (seen > 0).all()
    if first and edge == "drop":
        assert (seen == 0).sum() < stride
        assert overlap > 0 or seen.max() == 1


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # rasterio's use of affine
@pytest.mark.parametrize("grid", [GRID, DEGREES], ids=["metres", "degrees"])
@pytest.mark.parametrize("window", [(0, 0, 240, 240), (17, 801, 240, 120), (24, 24, 240, 240)])
def test_bounds_are_those_of_rasterio(grid, window):
    row, col, height, width = window
    transform = Affine(grid.dx, 0, grid.left, 0, grid.dy, grid.top)
    assert grid.bounds(*window) == bounds(Window(col, row, width, height), transform)


def test_ratios():
    for times in (Fraction(1), Fraction(2), Fraction(6), Fraction(1, 2), Fraction(1, 33)):
        side = 10.0 * float(times)
        assert ratio(GRID, Grid(None, 0, 0, side, -side, 1, 1)) == times
    message = r"pixels of 15 x 15, expected a multiple of 10 x 10"
    with pytest.raises(ValueError, match=message):
        ratio(GRID, Grid(None, 0, 0, 15.0, -15.0, 1, 1))


def test_a_cut_on_a_coarse_grid_is_exact():
    coarse = Grid(GRID.crs, GRID.left, GRID.top, 60.0, -60.0, 178, 178)
    assert cut(GRID, 828, 240, 240, coarse, 40) == Cut(138, 40, 0.0)


def test_a_cut_is_the_nearest_window_with_its_offset():
    shifted = Grid(GRID.crs, GRID.left - 3.0, GRID.top + 14.0, 10.0, -10.0, 1068, 1068)
    found = cut(GRID, 10, 20, 240, shifted, 240)
    assert (found.row, found.col, round(found.offset_px, 6)) == (11, 20, 0.4)


def test_a_cut_stays_on_the_grid():
    small = Grid(GRID.crs, GRID.left, GRID.top, 10.0, -10.0, 240, 240)
    assert cut(GRID, 0, 2, 240, small, 240) == Cut(0, 0, 2.0)
    assert cut(GRID, 0, 0, 240, small, 241) is None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 6), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_a_covering_grid_is_never_more_than_half_a_pixel_off(row, col, times, x, y):
    side = 10.0 * times
    other = Grid(GRID.crs, GRID.left - (3 + x) * side, GRID.top + (3 + y) * side, side, -side, 200, 200)
    assert cut(GRID, row * times, col * times, 4 * times, other, 4).offset_px <= 0.5 + 1e-6
