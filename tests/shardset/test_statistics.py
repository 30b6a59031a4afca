"""Statistics equal numpy's on all pixels at once, and their bytes do not depend on the distribution over shards."""

import itertools
import json
import random
import zlib

import numpy as np
import pytest
import rasterio
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS

from rspretrain.sensors import Group
from rspretrain.shardset.statistics import NUM_BINS, PERCENTILES, BandStatistics, Tally


def images_of(groups: tuple[Group, ...], number: int) -> dict[str, np.ndarray]:
    """Decibels for floats, skewed numbers for integers; scenes differ in size."""
    rng = np.random.default_rng(number)
    shapes = {group.name: (len(group.bands), *(group.shape or (9 + number % 3, 7))) for group in groups}
    return {
        group.name: rng.normal(-13, 4, shapes[group.name]).astype(np.float32)
        if group.dtype == "float32"
        else rng.gamma(2.0, 30.0 if group.dtype == "uint8" else 700.0, shapes[group.name])
        .clip(0, 255 if group.dtype == "uint8" else 9e4)
        .astype(group.dtype)
        for group in groups
    }


def tally_of(groups: tuple[Group, ...], numbers: range | list[int]) -> Tally:
    tally = Tally(groups)
    for number in numbers:
        tally.add(images_of(groups, number))
    return tally


@pytest.mark.parametrize("groups", [PAIR_GROUPS, SCENE_GROUPS], ids=["pairs", "scenes"])
def test_equals_numpy_on_all_pixels(groups):
    tally = tally_of(groups, range(50))
    assert tally.images == 50
    for group in groups:
        for index, name in enumerate(group.bands):
            values = np.concatenate([images_of(groups, number)[group.name][index].ravel() for number in range(50)])
            found = tally.summary()[group.name][name]
            assert (found.count, found.min, found.max) == (values.size, values.min(), values.max())
            exact = values.astype(np.float64)
            np.testing.assert_allclose([found.mean, found.std], [exact.mean(), exact.std()], rtol=1e-12)
            expected = np.percentile(values, PERCENTILES)
            if group.dtype == "float32":
                np.testing.assert_allclose(list(found.percentiles.values()), expected, rtol=1 / 128)
            else:
                assert list(found.percentiles.values()) == expected.tolist()
            assert list(found.percentiles) == [str(percent) for percent in PERCENTILES]


def test_percentiles_of_decibels_are_close():
    """The bound is half a bin; for pixels spread over the bin the error is a hundredth of a decibel."""
    values = np.random.default_rng(0).normal(-13, 4, (1, 500, 500)).astype(np.float32)
    tally = Tally([Group("s1", "s1", ("VV",), "float32", None, 10.0, "db")])
    tally.add({"s1": values})
    found = tally.summary()["s1"]["VV"].percentiles
    np.testing.assert_allclose(list(found.values()), np.percentile(values, PERCENTILES), atol=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_any_partition_and_any_order_give_the_same_bytes(seed):
    expected = tally_of(PAIR_GROUPS, range(40)).to_bytes()
    draw = random.Random(seed)
    numbers = draw.sample(range(40), 40)
    cuts = sorted(draw.sample(range(40), draw.randrange(8)))
    parts = [tally_of(PAIR_GROUPS, numbers[a:b]) for a, b in itertools.pairwise([0, *cuts, 40])]
    merged = Tally(PAIR_GROUPS)
    for part in draw.sample(parts, len(parts)):
        merged.merge(Tally.from_bytes(PAIR_GROUPS, part.to_bytes()))
    assert merged.to_bytes() == expected
    assert merged.summary() == tally_of(PAIR_GROUPS, range(40)).summary()


def test_counting_continues_after_reading():
    tally = tally_of(PAIR_GROUPS, range(3))
    tally.to_bytes()
    tally.summary()
    for number in range(3, 6):
        tally.add(images_of(PAIR_GROUPS, number))
    assert tally.to_bytes() == tally_of(PAIR_GROUPS, range(6)).to_bytes()


def test_the_std_is_the_population_std_over_all_pixels():
    """Images of different size: 0..255 four times and once, so neither a mean of means nor n - 1 gives this."""
    tally = Tally([Group("grey", "other", ("y",), "uint8", None, None, "grey")])
    for times in (1, 4):
        tally.add({"grey": np.arange(256, dtype=np.uint8).repeat(times).reshape(1, 16, -1)})
    tally.add({"grey": np.zeros((1, 16, 16), np.uint8)})
    found = tally.summary()["grey"]["y"]
    assert found.mean == 127.5 * 5 / 6
    assert found.std == pytest.approx(((5 / 6) * (65535 / 12 + 127.5**2) - (127.5 * 5 / 6) ** 2) ** 0.5, rel=1e-15)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_equals_gdal_s_statistics_of_a_raster(tmp_path, dtype):
    """An independent implementation with the same definition, nodata included."""
    values = np.random.default_rng(0).normal(50, 30, (1, 90, 110)).clip(0, 200).astype(dtype)
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        "GTiff",
        110,
        90,
        1,
        "EPSG:32633",
        rasterio.Affine(10, 0, 0, 0, -10, 0),
        dtype,
        nodata=0,
    ) as file:
        file.write(values)
    with rasterio.open(tmp_path / "a.tif") as file:
        expected = file.stats()[0]
    tally = Tally([Group("a", "other", ("x",), dtype, (90, 110), 10.0, "dn", nodata=0.0)])
    tally.add({"a": values})
    found = tally.summary()["a"]["x"]
    assert found.count == (values != 0).sum() < values.size
    np.testing.assert_allclose(
        [found.min, found.max, found.mean, found.std],
        [expected.min, expected.max, expected.mean, expected.std],
        rtol=1e-9,
    )


def histogram_of(values: np.ndarray) -> BandStatistics:
    tally = Tally([Group("a", "other", ("x",), values.dtype.name, None, None, "dn")])
    tally.add({"a": values.reshape(1, 1, -1)})
    return tally.summary()["a"]["x"]


@pytest.mark.parametrize(
    "values", [np.arange(256, dtype=np.uint8), np.arange(-3000, 9000, dtype=np.int16), np.arange(700, dtype=np.uint16)]
)
def test_bins_of_integers_hold_whole_values(values):
    """All bins have the same number of values, so a uniform distribution gives equal bars."""
    found = histogram_of(np.repeat(values, 20)).histogram
    width = (found.high - found.low) / len(found.counts)
    assert width == int(width)
    assert NUM_BINS / 2 < len(found.counts) <= NUM_BINS
    assert set(found.counts[1:-1]) == {20 * width}


def test_the_histogram_is_numpy_s():
    values = np.random.default_rng(0).normal(-13, 4, 200_000).astype(np.float32)
    found = histogram_of(values).histogram
    expected, _ = np.histogram(values, len(found.counts), (found.low, found.high))
    assert sum(found.counts) == pytest.approx(0.998 * values.size, rel=1e-4)
    np.testing.assert_allclose(found.counts, expected, atol=0.03 * max(expected))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int32"])
def test_a_constant_band(dtype):
    found = histogram_of(np.full(100, 7, dtype))
    assert (found.mean, found.std, found.min, found.max) == (7, 0, 7, 7)
    assert sum(found.histogram.counts) == 100
    assert set(found.percentiles.values()) == {7.0}


def test_a_band_without_valid_pixels_is_left_out():
    tally = Tally([Group("a", "other", ("x", "y"), "uint16", None, None, "dn", nodata=0.0)])
    tally.add({"a": np.stack([np.zeros((3, 3), np.uint16), np.ones((3, 3), np.uint16)])})
    assert list(tally.summary()["a"]) == ["y"]
    assert Tally(PAIR_GROUPS).summary() == {group.name: {} for group in PAIR_GROUPS}
    assert Tally.from_bytes(PAIR_GROUPS, Tally(PAIR_GROUPS).to_bytes()).images == 0


def test_mismatching_images_and_tallies_are_refused():
    tally, images = Tally(PAIR_GROUPS), images_of(PAIR_GROUPS, 0)
    with pytest.raises(ValueError, match=r"Group s2_60m has float64 \(2, 2, 2\), expected uint16 with 2 bands"):
        tally.add({**images, "s2_60m": images["s2_60m"].astype(np.float64)})
    with pytest.raises(ValueError, match=r"Group s1_10m has float32 \(1, 12, 12\), expected float32 with 2 bands"):
        tally.add({**images, "s1_10m": images["s1_10m"][:1]})
    with pytest.raises(ValueError, match=r"Cannot merge statistics of \[\['rgb'.*Merge shards of one archive"):
        tally.merge(Tally(SCENE_GROUPS))


def test_damage_is_detected():
    data = tally_of(PAIR_GROUPS, range(2)).to_bytes()
    draw = random.Random(0)
    for _ in range(300):
        bad = bytearray(data)
        bad[draw.randrange(len(bad))] ^= 1 << draw.randrange(8)
        with pytest.raises(ValueError, match=r"Statistics of a shard are damaged \("):
            Tally.from_bytes(PAIR_GROUPS, bytes(bad))
    for cut in (
        b"",
        data[:-1],
        data + b"x",
        zlib.compress(b"{}\n"),
        zlib.compress(b"[]"),
        zlib.compress(bytes(1 << 24)),
    ):
        with pytest.raises(ValueError, match="Statistics of a shard are damaged .* Build that shard again"):
            Tally.from_bytes(PAIR_GROUPS, cut)
    with pytest.raises(ValueError, match="Statistics of a shard are damaged"):
        Tally.from_bytes(SCENE_GROUPS, data)


def test_a_receipt_is_small():
    tally = Tally([Group("s2", "s2", ("B02",), "uint16", (120, 120), 10.0, "dn")])
    rng = np.random.default_rng(0)
    for _ in range(100):
        tally.add({"s2": rng.gamma(3, 300, (1, 120, 120)).astype(np.uint16)})
    assert len(tally.to_bytes()) < 10_000


def test_the_summary_survives_json():
    found = tally_of(PAIR_GROUPS, range(2)).summary()["s1_10m"]["VV"]
    text = json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert BandStatistics.model_validate(json.loads(text)) == found
