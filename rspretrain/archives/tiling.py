"""Positions of windows on a scene, and the matching pixels on another grid. Arithmetic only, no files."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Edge = Literal["shift", "drop"]
Bounds = tuple[float, float, float, float]  # left, bottom, right, top, in units of the CRS
# Relative tolerance of a ratio of pixel sizes: SSL4EO-S12's Sentinel-1 pixels are 0.75 % wider than its Sentinel-2
# pixels.
RATIO_ERROR = 0.02


@dataclass(frozen=True)
class Grid:
    """A north-up pixel grid: the upper left corner, the pixel size (dy is negative) and the number of pixels."""

    crs: str | None
    left: float
    top: float
    dx: float
    dy: float
    width: int
    height: int

    def bounds(self, row: int, col: int, height: int, width: int) -> Bounds:
        """Bounds of a window of pixels; the same floats as rasterio.windows.bounds."""
        return (
            col * self.dx + self.left,
            (row + height) * self.dy + self.top,
            (col + width) * self.dx + self.left,
            row * self.dy + self.top,
        )

    @property
    def extent(self) -> Bounds:
        """Bounds of the whole grid."""
        return self.bounds(0, 0, self.height, self.width)


def ratio(fine: Grid, coarse: Grid) -> Fraction:
    """Pixels of `fine` per pixel of `coarse` along an axis: 6, or 1/2.

    ValueError unless it or its inverse is an integer.
    """
    across, down = coarse.dx / fine.dx, coarse.dy / fine.dy
    whole = Fraction(round(across)) if across > 0.75 else Fraction(1, round(1 / across))
    if max(abs(across / whole - 1), abs(down / whole - 1)) > RATIO_ERROR:
        raise ValueError(f"pixels of {coarse.dx:g} x {-coarse.dy:g}, expected a multiple of {fine.dx:g} x {-fine.dy:g}")
    return whole


def offsets(size: int, window: int, stride: int, edge: Edge) -> list[int]:
    """First pixels of all windows along an axis.

    `shift` adds a window at the end, overlapping the last, to cover all pixels.

    Empty if the axis is shorter than the window.
    """
    found = list(range(0, size - window + 1, stride))
    if edge == "shift" and found and found[-1] + window < size:
        found.append(size - window)
    return found


def stride_of(window: int, overlap: float, unit: int) -> int:
    """Stride between windows in pixels: (1 - overlap) of a window, rounded to whole pixels of the coarsest grid."""
    return max(unit, round(window * (1 - overlap) / unit) * unit)


@dataclass(frozen=True)
class Cut:
    """A window on another grid, and the largest offset of its edges, in pixels of that grid."""

    row: int
    col: int
    offset_px: float


def cut(base: Grid, row: int, col: int, window: int, other: Grid, size: int) -> Cut | None:
    """The window of `size` pixels on `other` that is nearest to a window of `base`; None if `other` is too small.

    Nothing is resampled: the window consists of whole pixels, and `offset_px` gives the remaining offset.
    """
    if size > other.width or size > other.height:
        return None
    first_col, off_x = _nearest(base.left + col * base.dx - other.left, window * base.dx, other.dx, size, other.width)
    first_row, off_y = _nearest(base.top + row * base.dy - other.top, window * base.dy, other.dy, size, other.height)
    return Cut(first_row, first_col, max(off_x, off_y))


def _nearest(start: float, length: float, step: float, size: int, limit: int) -> tuple[int, float]:
    """First pixel and offset in pixels of an interval on one axis; `start` and `length` in units of the CRS."""
    begin, end = start / step, (start + length) / step
    first = min(max(round((begin + end - size) / 2), 0), limit - size)
    return first, max(abs(first - begin), abs(first + size - end))
