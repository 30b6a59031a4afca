"""Counts equal exact arithmetic on the pixels, for every dtype and partition."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rspretrain.shardset import counting
from rspretrain.shardset.counting import BandCounter, Scratch, band_counter

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
SCRATCH = Scratch()


def band(dtype: str, *parts: np.ndarray, nodata: float | None = None) -> BandCounter:
    made = band_counter(dtype, nodata, SCRATCH)
    for part in parts:
        made.add(part)
    made.flush()
    return made


def everything(band: BandCounter) -> tuple:
    return band.counts.tobytes(), band.state(), band.sums(), [x.hex() for x in band.extremes()]


@st.composite
def pixels(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
    elements = (
        st.floats(width=8 * dtype.itemsize, **finite)
        if finite
        else st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    )
    return draw(arrays(dtype, st.integers(1, 60), elements=elements))


@settings(max_examples=300, deadline=None)
@given(pixels(), st.integers(0, 60))
def test_sums_and_extremes_are_exact_in_any_partition(values, cut):
    exact = [Fraction(float(value)) for value in values]
    whole = band(values.dtype.name, values)
    assert whole.sums() == (sum(exact), sum(x * x for x in exact))
    assert whole.extremes() == (min(exact), max(exact))
    assert whole.counts.sum() == len(values)
    first, second = band(values.dtype.name, values[cut:]), band(values.dtype.name, values[:cut][::-1])
    first.merge(second)
    assert everything(first) == everything(whole)
    again = band(values.dtype.name)
    again.counts[:] = whole.counts
    again.restore(whole.state())
    assert everything(again) == everything(whole)


@settings(max_examples=100, deadline=None)
@given(pixels())
def test_every_pixel_is_in_its_bin(values):
    made = band(values.dtype.name, values)
    counts, edges = made.ascending()
    assert (np.diff(edges) >= 0).all()
    assert len(edges) == len(counts) + 1
    at = np.repeat(np.arange(len(counts)), counts)
    low, high = edges[at], edges[at + 1]
    if values.dtype.name in (
        "float64",
        "int32",
        "uint32",
    ):  # values are rounded to float32 bins
        values = np.clip(values, -3.4e38, 3.4e38).astype(np.float32)
    ordered = np.sort(values.astype(np.float64))
    assert ((low <= ordered) & (ordered <= high)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_pixels_through_batches_and_drains(dtype, monkeypatch):
    monkeypatch.setattr(counting, "_DRAIN", 100_000)
    rng = np.random.default_rng(0)
    values = (rng.normal(-13, 4, 300_001) * 10.0 ** rng.integers(-9, 9, 300_001)).astype(dtype)
    made = band(dtype, *np.split(values, [7, 150_000, 150_001, 250_000]))
    total = sum(map(Fraction, values.tolist()))
    assert made.sums() == (total, sum(Fraction(x) ** 2 for x in values.tolist()))


def test_the_worst_lower_digits_stay_exact():
    """All lower digits 65,535: their squares reach 2^52 between two drains."""
    value = np.array([0x3FFFFFFF], np.uint32).view(np.float32)[0]
    num = counting._DRAIN + 3 * counting._BATCH // 2
    assert band("float32", np.full(num, value)).sums() == (
        num * Fraction(float(value)),
        num * Fraction(float(value)) ** 2,
    )


def test_zero_has_no_sign():
    zeros = np.array([-0.0], np.float32), np.array([0.0], np.float32)
    assert everything(band("float32", *zeros)) == everything(band("float32", *zeros[::-1]))
    assert [x.hex() for x in band("float32", zeros[0]).extremes()] == ["0x0.0p+0"] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nodata", [7, -9, float("nan"), -1.8e308, 0.5])
def test_nodata_is_left_out(dtype, nodata):
    values = np.array([7, 0, 3, 7, 100], dtype)
    kept = [value for value in values.tolist() if value != nodata]
    made = band(dtype, values, nodata=nodata)
    assert made.counts.sum() == len(kept)
    assert made.sums()[0] == sum(kept)


def test_nodata_may_be_nan():
    made = band("float32", np.array([np.nan, 2.0], np.float32), nodata=float("nan"))
    assert (made.counts.sum(), made.sums()[0]) == (1, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(dtype, value):
    with pytest.raises(ValueError, match="Statistics got NaN or infinite pixels, expected finite ones. Exclude"):
        band(dtype, np.array([1.0, value], dtype))


def test_no_pixels_have_no_extremes():
    assert band("uint8").extremes() == band("float32").extremes() == (np.inf, -np.inf)


@pytest.mark.parametrize("dtype", ["int64", "complex64", "bool"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=f"No statistics of {dtype}, expected integers of up to 32 bits or floats"):
        band_counter(dtype, None, SCRATCH)
