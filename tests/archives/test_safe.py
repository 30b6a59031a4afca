"""SAFE products: JPEG 2000, bands at their native resolution, and of the other rasters only the requested mask."""

from pathlib import Path

import pytest
from fakes.geotiff import noise, write_file

from rspretrain.archives.geotiff import GeoTiff
from rspretrain.archives.raster import read_raster
from rspretrain.archives.safe import bands_only, product_root

TILE = "T33TWM_20220701T085611"


def write_jp2(path, metres, seed=0, dtype="uint16"):
    """120 x 120 pixels at 10 m, fewer at coarser resolutions, lossless."""
    size = 1200 // metres
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    return write_file(path, noise(1, size, size, dtype, seed), float(metres), **lossless)


@pytest.fixture
def level_2a(tmp_path):
    images = tmp_path / f"S2A_MSIL2A_{TILE[7:]}_R007_{TILE[:6]}.SAFE/GRANULE/L2A/IMG_DATA"
    for metres, bands in ((10, ("B02", "TCI")), (20, ("B02", "B01", "B8A", "AOT", "SCL")), (60, ("B01", "B02", "WVP"))):
        for seed, band in enumerate(bands):
            write_jp2(
                images / f"R{metres}m/{TILE}_{band}_{metres}m.jp2", metres, seed, "uint8" if band == "SCL" else "uint16"
            )
    write_jp2(images.parent / "QI_DATA/MSK_CLDPRB_20m.jp2", 20, dtype="uint8")
    return images


def test_bands_of_level_2a_at_their_own_resolutions(level_2a):
    archive = GeoTiff(level_2a.parents[3], window=120)
    entries, faults = archive.entries()
    assert (len(entries), faults) == (1, [])
    assert [(group.name, group.bands) for group in archive.groups] == [
        ("s2_10m", ("B02",)), ("s2_20m", ("B8A",)), ("s2_60m", ("B01",)),
    ]  # fmt: skip
    patch = archive.read(entries[0])
    assert (patch.attributes["s2_date"], patch.crs) == ("2022-07-01T08:56:11", "EPSG:32633")
    for band, metres in (("B02", 10), ("B8A", 20), ("B01", 60)):
        expected = read_raster(level_2a / f"R{metres}m/{TILE}_{band}_{metres}m.jp2")
        assert patch.images[f"s2_{metres}m"].tobytes() == expected.pixels.tobytes()
        assert patch.bounds == expected.bounds


def test_scene_classes_as_cloud_mask(level_2a):
    archive = GeoTiff(level_2a.parents[3], window=120, cloud_mask="*_SCL_20m*", cloud_values=(8, 9, 10))
    (entry,), faults = archive.entries()
    assert (entry.source.scene.mask[0].name, faults) == (f"{TILE}_SCL_20m.jp2", [])
    assert 0 < archive.read(entry).attributes["cloud"] < 0.1


def test_bands_of_level_1c(tmp_path):
    for band, metres in (("B02", 10), ("B10", 60), ("TCI", 10)):
        write_jp2(tmp_path / f"X.SAFE/GRANULE/L1C/IMG_DATA/{TILE}_{band}.jp2", metres)
    archive = GeoTiff(tmp_path, window=60)
    assert ([group.bands for group in archive.groups], archive.entries()[1]) == ([("B02",), ("B10",)], [])


def test_a_resampled_copy_replaces_a_missing_band():
    paths = [Path(f"a/R{metres}m/x_B04_{metres}m.jp2") for metres in (60, 20)]
    assert bands_only(paths, lambda path: False) == [paths[1]]
    assert product_root(paths[0]) == Path("a")
    others = [Path("a/TCI.tif"), Path("a/x_B04.tif"), Path("b/orthophoto.jp2")]
    assert bands_only(others, lambda path: False) == others
