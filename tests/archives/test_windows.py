"""Windows of files equal rasterio's; few files stay open; errors name the file."""

import numpy as np
import pytest
import rasterio
from fakes.geotiff import noise, write_file, write_vrt
from rasterio._err import CPLE_AppDefinedError
from rasterio.windows import Window

from rspretrain.archives import windows
from rspretrain.archives.tiling import Grid
from rspretrain.archives.windows import (
    close_files,
    latitude,
    metres_per_unit,
    nominal_gsd_m,
    read_mask,
    read_profile,
    read_window,
)  # fmt: skip
from rspretrain.patch import PatchError


@pytest.fixture(autouse=True)
def _closed():
    yield
    close_files()


@pytest.mark.parametrize("profile", [{}, {"driver": "COG", "blocksize": 128}, {"tiled": True, "compress": "lzw"}])
def test_a_window_equals_rasterios(tmp_path, profile):
    path = write_file(tmp_path / "a.tif", noise(3, 300, 400), **profile)
    with rasterio.open(path) as source:
        expected = source.read([3, 1], window=Window(120, 90, 200, 150))
    found = read_window(path, (3, 1), 90, 120, 150, 200)
    assert found.dtype == np.uint16
    assert np.array_equal(found, expected)


def test_a_profile_reads_no_pixels(tmp_path):
    path = write_file(tmp_path / "a.tif", noise(2, 20, 30, "float32"), names=("VV", "VH"), nodata=np.nan)
    profile = read_profile(path)
    assert profile.grid == Grid("EPSG:32633", 500_000.0, 5_000_000.0, 10.0, -10.0, 30, 20)
    assert (profile.dtype, profile.names, profile.count, profile.masked) == ("float32", ("VV", "VH"), 2, False)
    assert np.isnan(profile.nodata)


def test_colours_are_band_names_and_georeference_is_optional(tmp_path):
    profile = read_profile(write_file(tmp_path / "a.tif", noise(3, dtype="uint8"), crs=None, photometric="RGB"))
    assert (profile.names, profile.grid.crs, profile.nodata) == (("R", "G", "B"), None, None)


def test_a_vrt_lists_and_reads_its_parts(tmp_path):
    parts = [write_file(tmp_path / f"{band}.tif", noise(seed=number)) for number, band in enumerate(("B02", "B03"))]
    path = write_vrt(tmp_path / "scene.vrt", parts)
    profile = read_profile(path)
    assert (set(profile.parts), profile.names) == (set(parts), ("B02", "B03"))
    assert np.array_equal(read_window(path, (2,), 8, 4, 16, 16), noise(seed=1)[:, 8:24, 4:20])
    close_files()
    parts[1].unlink()
    with pytest.raises(PatchError, match=r"scene\.vrt: cannot be read \(.*B03\.tif.*\)\. Unpack or download the file"):
        read_window(path, (1, 2), 0, 0, 16, 16)


def test_a_mask_of_the_files_own(tmp_path):
    path = write_file(tmp_path / "a.tif", noise(2, 20, 20))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        target.write_mask(np.arange(20)[:, None].repeat(20, 1) >= 5)
    assert read_profile(path).masked
    assert read_mask(path, 3, 0, 4, 2).tolist() == [[False, False], [False, False], [True, True], [True, True]]


def test_few_files_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MAX_OPEN", 3)
    paths = [write_file(tmp_path / f"{number}.tif", noise(seed=number)) for number in range(5)]
    for number in (0, 1, 2, 0, 3, 4):
        assert np.array_equal(read_window(paths[number], (1,), 0, 0, 48, 60), noise(seed=number))
    assert list(windows._open) == [paths[0], paths[3], paths[4]]


def test_broken_files_are_named(tmp_path):
    path = write_file(tmp_path / "a.tif", noise(1, 200, 200))
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(PatchError, match=r"a\.tif: cannot be read \("):
        read_window(path, (1,), 0, 0, 200, 200)
    (tmp_path / "b.tif").write_text("no picture")
    with pytest.raises(PatchError, match=r"b\.tif: cannot be read \(.*not recognized.*\)\. Unpack or download"):
        read_profile(tmp_path / "b.tif")
    with pytest.raises(PatchError, match=r"c\.tif: the file is missing\. Unpack or download the archive again\."):
        read_window(tmp_path / "c.tif", (1,), 0, 0, 1, 1)
    with pytest.raises(
        PatchError, match=r"d\.tif: the window is \(8, 60\), expected \(48, 60\)\. The file has changed"
    ):
        read_window(write_file(tmp_path / "d.tif", noise(1, 48, 60)), (1,), 40, 0, 48, 60)


def test_a_rotated_grid_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    turned = rasterio.Affine(8.66, 5.0, 0.0, 5.0, -8.66, 0.0)
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=4, width=4, dtype="uint8", crs="EPSG:32633", transform=turned
    ) as target:
        target.write(np.ones((1, 4, 4), np.uint8))
    with pytest.raises(PatchError, match=r"a\.tif: its grid is \(8\.66.*\), expected north up\. Warp it with gdalwarp"):
        read_profile(path)


def test_metres_and_latitudes():
    assert (metres_per_unit("EPSG:32633"), metres_per_unit("EPSG:4326")) == (1.0, 111_320.0)
    assert metres_per_unit("EPSG:2263") == pytest.approx(0.3048006)  # US survey feet
    assert latitude("EPSG:4326", 10.0, -33.5) == pytest.approx(-33.5)
    assert latitude("EPSG:32733", 500_000.0, 9_000_000.0) == pytest.approx(-9.05, abs=0.05)


def test_gdal_errors_without_a_rasterio_class(tmp_path, monkeypatch):
    """Such errors occur for files with damaged GeoKeys."""

    def fail(path):
        raise CPLE_AppDefinedError(3, 1, "Key 1025 of unknown type.")

    path = write_file(tmp_path / "a.tif", noise(1, 8, 8))
    monkeypatch.setattr(rasterio, "open", fail)
    with pytest.raises(PatchError, match=r"a\.tif: cannot be read \(Key 1025 of unknown type\.\)\. Unpack"):
        read_profile(path)


def test_nominal_metres():
    degrees = Grid("EPSG:4326", 73.3, 30.5, 0.0001014112844859978, -8.797200686307421e-05, 264, 264)
    assert [nominal_gsd_m(sensor, degrees) for sensor in ("s2", "s1", "other")] == [10.0, 10.0, 9.8]
    assert nominal_gsd_m("rgb", Grid("EPSG:32633", 0, 0, 0.3, -0.3, 9, 9)) == 0.3
    assert nominal_gsd_m("rgb", Grid(None, 0, 0, 1, -1, 9, 9)) is None
