"""Reading rasters to numpy, and refused files."""

import re
import struct

import numpy as np
import pytest
import rasterio
from fakes.scenes import write_picture
from PIL import Image
from rasterio.crs import CRS

from rspretrain.archives.raster import crs_of_wkt, read_raster, read_rgb, to_degrees, write_raster
from rspretrain.patch import PatchError


def test_write_and_read_keep_pixels_and_georeference(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)
    write_raster(tmp_path / "a.tif", pixels, 32633, 300000, 5400000, 10)
    raster = read_raster(tmp_path / "a.tif")
    assert raster.pixels.dtype == np.float32
    assert raster.pixels.tobytes() == pixels.tobytes()
    assert (raster.crs, raster.bounds) == ("EPSG:32633", (300000.0, 5399940.0, 300050.0, 5400000.0))


def test_a_crs_without_a_code_stays_wkt(tmp_path):
    wkt = CRS.from_proj4("+proj=laea +lat_0=11 +lon_0=12 +datum=WGS84 +units=m").to_wkt()
    transform = {"crs": wkt, "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", 3, 3, 1, dtype="uint8", **transform) as target:
        target.write(np.zeros((1, 3, 3), np.uint8))
    assert read_raster(tmp_path / "a.tif").crs.startswith("PROJCS[")
    assert crs_of_wkt("no crs") is None


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png"])
def test_images_equal_rasterio_without_warnings(tmp_path, suffix):
    path = write_picture(tmp_path / f"a{suffix}", 17, 23)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path) as source:
        expected = source.read()
    assert read_rgb(path).tobytes() == expected.tobytes()
    raster = read_raster(path)
    assert (raster.pixels.shape, raster.crs, raster.bounds) == ((3, 17, 23), None, None)


@pytest.mark.parametrize("suffix", [".tif", ".jpg", ".png"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path, suffix, keep):
    path = write_picture(tmp_path / f"a{suffix}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    for read in (read_raster, read_rgb):
        with pytest.raises(PatchError, match=rf"{re.escape(str(path))}: cannot be read \(.+\)\. Unpack"):
            read(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(PatchError, match=r"a\.tif: the file is missing\. Unpack or download the archive again\."):
        read_raster(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA"])
def test_lossless_conversion_to_rgb(tmp_path, mode):
    picture = Image.open(write_picture(tmp_path / "rgb.png")).convert(mode)
    picture.save(tmp_path / "a.png")
    expected = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
    assert (read_rgb(tmp_path / "a.png") == expected).all()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.new("RGBA", (8, 8), (1, 2, 3, 254)), "the alpha band is not opaque everywhere, expected RGB. Flatten"),
        (Image.fromarray(np.full((8, 8), 700, np.uint16)), "uint16 pixels, expected uint8. Convert the file"),
        (Image.new("1", (8, 8)), "1-bit pixels, expected uint8. Convert the file"),
    ],
    ids=["alpha", "16 bits", "1 bit"],
)
def test_images_that_are_not_rgb_are_refused(tmp_path, picture, message):
    picture.save(tmp_path / "a.png")
    with pytest.raises(PatchError, match=re.escape(message)):
        read_rgb(tmp_path / "a.png")


def test_five_bands_are_not_rgb(tmp_path):
    write_raster(tmp_path / "a.tif", np.zeros((5, 4, 4), np.uint8), 32633, 0, 0, 10)
    with pytest.raises(PatchError, match=r"bands \(.*\), expected red, green, blue\. Convert"):
        read_rgb(tmp_path / "a.tif")


def test_an_image_with_a_damaged_size(tmp_path):
    """A file of a few bytes that claims 900 GiB is a fault, not a crash."""
    path = write_picture(tmp_path / "a.bmp", 8, 150)
    path.write_bytes(path.read_bytes().replace(struct.pack("<ii", 150, 8), struct.pack("<ii", 150, 2**31 - 150)))
    for read in (read_raster, read_rgb):
        with pytest.raises(PatchError, match=r"a\.bmp: cannot be read \(3 x 2147483498 x 150 pixels, expected 2 GiB"):
            read(path)


def test_an_invalid_georeference(tmp_path):
    transform = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, np.nan, 0, -10, 0)}
    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", 3, 3, 1, dtype="uint8", compress="lzw", **transform) as target:
        target.write(np.zeros((1, 3, 3), np.uint8))
    assert read_raster(tmp_path / "a.tif").bounds is None


def test_degrees_of_known_locations():
    degrees = to_degrees("EPSG:32633", np.array([[500_000.0]]), np.array([[0.0]]))
    np.testing.assert_allclose(degrees, [[[15.0, 0.0]]], atol=1e-9)
    assert to_degrees("EPSG:4326", np.array([15.0]), np.array([48.0])).tolist() == [[15.0, 48.0]]


def test_degrees_are_nan_without_a_known_crs():
    assert np.isnan(to_degrees("here and there", np.array([1.0]), np.array([2.0]))).all()
    assert to_degrees("EPSG:32633", np.empty((0, 5)), np.empty((0, 5))).shape == (0, 5, 2)
