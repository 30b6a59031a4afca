"""Files decoded without GDAL equal GDAL's result in pixels and georeference; all other files are left to GDAL."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rspretrain.archives import raster, tiff
from rspretrain.archives.raster import read_raster
from rspretrain.archives.tiff import read_plain
from rspretrain.patch import PatchError

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),  # rasterio's, for rotated rasters
]
DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64")
DATA = Path(__file__).parents[3] / "shared/data"


@pytest.fixture(autouse=True)
def _forget():
    raster._CRS_OF_GEO_KEYS.clear()


def write(
    path: Path, dtype: str = "uint16", count: int = 3, size: tuple[int, int] = (21, 17), **options: object
) -> Path:
    """A GeoTIFF of noise written by rasterio, in UTM by default."""
    height, width = size
    transform = {"crs": "EPSG:32633", "transform": rasterio.Affine(10.1, 0, 399960.3, 0, -9.9, 5400000.7)}
    profile = {
        "driver": "GTiff",
        "dtype": dtype,
        "count": count,
        "height": height,
        "width": width,
        **transform,
        **options,
    }
    bits = np.random.default_rng(0).integers(0, 256, (count, height, width * np.dtype(dtype).itemsize), dtype=np.uint8)
    with rasterio.open(path, "w", **{name: value for name, value in profile.items() if value is not None}) as target:
        target.write(bits.view(dtype))
    return path


def by_rasterio(path: Path) -> tuple:
    """dtype, shape, bytes, CRS and bounds from rasterio."""
    with rasterio.Env(**raster._OPTIONS), rasterio.open(path) as source:
        pixels, crs, bounds = source.read(), source.crs, tuple(source.bounds)
    name = None if not crs else f"EPSG:{crs.to_epsg()}" if crs.to_epsg() else crs.to_wkt()
    return pixels.dtype, pixels.shape, pixels.tobytes(), name, bounds if crs else None


def by_us(path: Path) -> tuple:
    read = read_raster(path)
    return read.pixels.dtype, read.pixels.shape, read.pixels.tobytes(), read.crs, read.bounds


def assert_equal(path: Path) -> bool:
    """`read_raster` agrees with rasterio, with and without a cached CRS. Returns whether the file is plain."""
    expected = by_rasterio(path)
    assert by_us(path) == expected
    assert by_us(path) == expected
    return read_plain(path.read_bytes()) is not None


@pytest.mark.parametrize(
    ("dtype", "count", "interleave", "rows"), [*itertools.product(DTYPES, (1, 2, 5), ("band", "pixel"), (1, 4, 21))]
)
def test_plain_files_equal_rasterio(tmp_path, dtype, count, interleave, rows):
    assert assert_equal(write(tmp_path / "a.tif", dtype, count, interleave=interleave, blockysize=rows))


PLAIN = {
    "rgb": {"dtype": "uint8", "photometric": "rgb"},
    "rgba": {"dtype": "uint8", "count": 4, "photometric": "rgb", "alpha": "yes"},
    "no georeference": {"crs": None, "transform": None},
    "no crs": {"crs": None},
    "degrees": {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, -3.21, 0, -1e-4, 51.5)},
    "no EPSG code": {"crs": "+proj=laea +lat_0=11 +lon_0=12 +datum=WGS84 +units=m"},
    "nodata": {"nodata": 7},
    "one pixel": {"size": (1, 1), "count": 1},
}
NOT_PLAIN = {
    **{name: {"compress": name} for name in ("deflate", "lzw", "packbits", "zstd")},
    "predictor": {"compress": "deflate", "predictor": 2},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "BigTIFF": {"BIGTIFF": "YES"},
    "big endian": {"ENDIANNESS": "BIG"},
    "sparse": {"SPARSE_OK": "TRUE"},
    "12 bits": {"nbits": 12},
    "int8": {"dtype": "int8"},
    "uint64": {"dtype": "uint64"},
    "complex": {"dtype": "complex64"},
    "grey upside down": {"dtype": "uint8", "count": 1, "photometric": "miniswhite"},
    "cmyk": {"dtype": "uint8", "count": 4, "photometric": "cmyk"},
    "rotated": {"transform": rasterio.Affine(10, 1, 0, 1, -10, 0)},
    "south up": {"transform": rasterio.Affine(10, 0, 0, 0, 10, 0)},
}


@pytest.mark.parametrize("name", [*PLAIN, *NOT_PLAIN])
def test_variants_equal_rasterio_and_only_plain_files_are_decoded(tmp_path, name):
    options = {**PLAIN, **NOT_PLAIN}[name]
    path = write(tmp_path / "a.tif", **options)
    if name == "sparse":
        with rasterio.open(path, "w", "GTiff", 21, 17, 1, dtype="uint8", SPARSE_OK="TRUE"):
            pass
    assert assert_equal(path) == (name in PLAIN)


def test_pixels_as_points_are_left_to_rasterio(tmp_path):
    path = write(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as target:
        target.update_tags(AREA_OR_POINT="Point")
    assert_equal(path)
    assert by_us(path)[-1][0] == 399960.3  # as written, although the tie point is half a pixel further in
    assert read_plain(path.read_bytes()).bounds[0] != 399960.3
    assert not raster._CRS_OF_GEO_KEYS


def test_descriptive_tags_are_accepted(tmp_path):
    path = write(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as target:
        target.update_tags(
            TIFFTAG_SOFTWARE="x", TIFFTAG_DATETIME="2020:01:01 00:00:00", TIFFTAG_XRESOLUTION="2", own="1"
        )
        target.scales, target.offsets, target.descriptions = (0.5,) * 3, (7.0,) * 3, ("a", "b", "c")
    assert assert_equal(path)


def test_a_second_image_is_not_plain(tmp_path):
    path = write(tmp_path / "a.tif", size=(64, 64))
    with rasterio.open(path, "r+") as target:
        target.build_overviews([2])
    assert not assert_equal(path)


def test_an_unknown_tag_is_not_plain(tmp_path):
    path = write(tmp_path / "a.tif", nodata=7)
    data = path.read_bytes()
    assert read_plain(data) is not None
    assert read_plain(data.replace((42113).to_bytes(2, "little"), (42114).to_bytes(2, "little"))) is None


def test_a_truncated_file_is_never_decoded_wrongly(tmp_path):
    path = write(tmp_path / "a.tif", size=(5, 4))
    whole = path.read_bytes()
    assert all(read_plain(whole[:length]) is None for length in range(len(whole)))
    path.write_bytes(whole[:-1])
    with pytest.raises(PatchError, match="cannot be read"):
        read_raster(path)


def test_strips_cannot_ask_for_more_than_the_file_holds(tmp_path):
    """A thousand strips may all refer to the same bytes; the full size is never allocated."""
    data = bytearray(write(tmp_path / "a.tif", "uint8", 1, (200, 100), blockysize=1).read_bytes())
    entry = next(at for at in range(8, len(data)) if data[at : at + 4] == b"\x11\x01\x04\x00")
    start = int.from_bytes(data[entry + 8 : entry + 12], "little")
    first = data[start : start + 4]
    data[start : start + 800] = first * 200
    assert read_plain(bytes(data)).pixels.shape == (1, 200, 100)
    assert read_plain(bytes(data[:10_000])) is None


@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers_are_read_like_rasterio_or_not_at_all(tmp_path, seed):
    """500 bit flips each: if the fast path decodes the file, rasterio gives the same pixels and georeference."""
    variants = (
        {},
        {"interleave": "pixel", "nodata": 7},
        {"dtype": "float32", "count": 1},
        {"dtype": "uint8", **PLAIN["rgb"]},
    )
    options = {"blockysize": 4, **variants[seed]}
    whole = write(tmp_path / "a.tif", size=(9, 7), **options).read_bytes()
    pixels = read_plain(whole).pixels.nbytes
    header = [at for at in range(len(whole)) if at < len(whole) - pixels or seed == 1]
    draw, answered, path = random.Random(seed), 0, tmp_path / "b.tif"
    for _ in range(500):
        data = bytearray(whole)
        data[draw.choice(header)] ^= 1 << draw.randrange(8)
        if read_plain(bytes(data)) is not None:
            path.write_bytes(data)
            raster._CRS_OF_GEO_KEYS.clear()
            try:
                assert_equal(path)
            except UnicodeDecodeError:  # raised by rasterio for the name of a CRS
                assert not raster._CRS_OF_GEO_KEYS
                with pytest.raises(PatchError, match="cannot be read"):
                    read_raster(path)
            answered += 1
    assert 20 < answered < 480


@pytest.mark.skipif(not DATA.is_dir(), reason="the real images of ../shared/data are not here")
def test_real_files_equal_rasterio():
    files = sorted(DATA.rglob("*.tif"))
    plain = [path for path in files if assert_equal(path)]
    assert len(plain) > 150


def test_small_files_only(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif")
    monkeypatch.setattr(tiff, "MAX_BYTES", path.stat().st_size - 1)
    monkeypatch.setattr(tiff, "read_plain", lambda data: pytest.fail("read a large file whole"))
    assert by_us(path) == by_rasterio(path)
