"""GeoTiff on real scenes, if available."""

from pathlib import Path

import numpy as np
import pytest

from archives.tiles import check_tiles
from rspretrain.archives.geotiff import GeoTiff
from rspretrain.archives.windows import close_files
from rspretrain.sensors import BAND_ORDER

REAL = Path(__file__).parents[2].parent / "shared/data"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="no real archives at ../shared/data")


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_files()


def test_major_tom():
    archive = GeoTiff(REAL / "major-tom", window=264, overlap=0.5)
    patches = check_tiles(archive, {})
    assert len(patches) == 8 * 8  # 7 at a stride of 132 and one more at the border: 1068 = 6 x 132 + 264 + 12
    assert [group.shape for group in archive.groups] == [(264, 264), (132, 132), (44, 44)]
    assert {patch.attributes["cloud"] for patch in patches} == {0.0}
    assert patches[0].attributes["s2_date"] == "2022-07-06T08:56:11"


def test_ssl4eo_s12():
    with pytest.raises(
        ValueError, match=r"B1\.tif: the edges of its grid are up to 0\.42 of its pixels off those of B2"
    ):
        GeoTiff(REAL / "ssl4eo-s12/s2c", window=264)
    archive = GeoTiff(REAL / "ssl4eo-s12/s2c", window=264, max_offset=0.5)
    patches = check_tiles(archive, {}, slack_px=0.5)
    assert [group.shape for group in archive.groups] == [(264, 264), (132, 132), (44, 44)]
    assert patches[0].attributes["s2_60m_offset_px"] == pytest.approx(2.5 / 6, abs=1e-4)
    whole = GeoTiff(REAL / "ssl4eo-s12/s2c", REAL / "ssl4eo-s12/s1", window=264, max_offset=4)
    entries, faults = whole.entries()
    assert (len(entries), faults) == (2, [])
    patch = whole.read(entries[1])
    assert patch.attributes["s1_scene"].endswith("S1A_IW_GRDH_1SDV_20200903T131212_20200903T131237_034195_03F8F5_AC1C")
    assert patch.attributes["s1_10m_offset_px"] == pytest.approx(3.9593)


def test_sen1floods11():
    archive = GeoTiff(REAL / "sen1floods11/S2", REAL / "sen1floods11/S1", window=256)
    assert [(group.name, len(group.bands), group.dtype, group.nodata) for group in archive.groups] == [
        ("s1_10m", 2, "float32", None), ("s2_10m", 13, "int16", 0.0),
    ]  # fmt: skip
    assert len(check_tiles(archive, {})) == 4


def test_a_raster_of_labels_is_another_sensor():
    root = REAL / "sen1floods11"
    archive = GeoTiff(root / "S2", root / "S1", other=root / "Labels", other_bands=("flood",), window=256)
    assert [(group.name, group.bands) for group in archive.groups][2:] == [("other_10m", ("flood",))]
    patches = check_tiles(archive, {})
    assert {int(value) for patch in patches for value in np.unique(patch.images["other_10m"])} == {-1, 0, 1}


def test_other_archives_by_pattern():
    bands = {f"{sensor}_bands": BAND_ORDER[sensor] for sensor in ("s2", "s1")}
    sen12ms = GeoTiff(REAL / "sen12ms/*_s2_*", REAL / "sen12ms/*_s1_*", window=128, **bands)
    assert len(check_tiles(sen12ms, {})) == 4
    root = REAL / "bigearthnet-v1"
    ben = GeoTiff(root / "BigEarthNet-v1.0", root / "BigEarthNet-S1-v1.0", window=120)
    patches = check_tiles(ben, {}, slack_px=0.5)
    assert [patch.attributes["s1_scene"][-6:] for patch in patches] == ["_87_48", "_36_85", "_69_24"]
