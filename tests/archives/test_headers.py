"""Headers parsed without GDAL equal rasterio's."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from rspretrain.archives.headers import Header, common_dtype, common_shape, read_header, sample_evenly
from rspretrain.archives.raster import write_raster

REAL = Path(__file__).parents[2].parent / "shared/data"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 2, 3, 13])
def test_tiff(tmp_path, dtype, bands):
    path = tmp_path / "a.tif"
    write_raster(path, np.zeros((bands, 5, 7), dtype=dtype), 32633, 0.0, 0.0, 10.0)
    assert read_header(path) == Header(bands, (5, 7), dtype)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [({"bigtiff": "YES"}, "uint16"), ({"endianness": "BIG"}, "uint16"), ({"nbits": 12}, "uint16"),
     ({"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "interleave": "band"}, "uint16"),
     ({"nbits": 1}, "uint8")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_kinds_of_tiff(tmp_path, options, dtype):
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=2, height=20, width=30, dtype=dtype, **options) as target:
        target.write(np.ones((2, 20, 30), dtype=dtype))
    assert read_header(path) == Header(2, (20, 30), dtype)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_pictures(tmp_path, suffix):
    Image.new("RGB", (7, 5)).save(tmp_path / f"a.{suffix}")
    assert read_header(tmp_path / f"a.{suffix}") == Header(3, (5, 7), None)


def test_images_of_any_size(tmp_path):
    """Pillow refuses 179 megapixels; aerial images are larger."""
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_000)).save(path)
    assert read_header(path) == Header(1, (10_000, 20_000), None)
    assert Image.MAX_IMAGE_PIXELS is not None


def test_files_without_a_header(tmp_path):
    path = tmp_path / "a.tif"
    assert read_header(path) is None
    write_raster(path, np.zeros((3, 5, 7), dtype=np.complex64), 32633, 0.0, 0.0, 10.0)
    whole = path.read_bytes()
    for data in (b"", b"II", b"II*\0", whole, whole[:40], b"II*\0\xff\xff\xff\x7f", b"<html>not found</html>"):
        path.write_bytes(data)
        assert read_header(path) is None


def test_common_shape():
    small, large = Header(3, (4, 4), None), Header(13, (8, 8), "uint16")
    assert common_shape([None, small, small]) == (4, 4)
    assert common_shape([small, large]) is None
    assert common_shape([None]) is None


def test_one_deviating_file_does_not_change_the_dtype():
    headers = [None, *(Header(1, (1, 1), dtype) for dtype in (None, "float64", "float32", "float32"))]
    assert [common_dtype(each, "uint8") for each in (headers, headers[:2], headers[:4])] == [
        "float32",
        "uint8",
        "float64",
    ]


def test_sample_evenly():
    assert sample_evenly([1, 2, 3], 3) == [1, 2, 3]
    assert sample_evenly(range(10), 4) == [0, 2, 5, 7]


@pytest.mark.skipif(not REAL.is_dir(), reason="no real archives at ../shared/data")
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_real_tiffs():
    paths = sorted(REAL.rglob("*.tif"))
    for path in paths:
        with rasterio.open(path) as source:
            assert read_header(path) == Header(source.count, source.shape, source.dtypes[0])
    assert len(paths) > 100
