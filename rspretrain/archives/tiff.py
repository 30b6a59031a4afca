"""A fast decoder of plain GeoTIFFs, without GDAL: large archives hold millions of them.

Opening one file of BigEarthNet with rasterio takes half a millisecond, most of it in GDAL and PROJ, although the pixels
are stored uncompressed. Only unambiguous files are decoded here: classic little-endian TIFF with one image, strips, no
compression, only known tags, north up. For all others `read_plain` returns None, and rasterio reads them.

Sources: TIFF 6.0 (Adobe 1992), sections 2 to 8; OGC 19-008r4 (GeoTIFF 1.1), annex B; GDAL's GTiff driver.
"""

import functools
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bytes of the largest file decoded here. GDAL's half millisecond matters only for small files, and a large one should
# not be in memory twice.
MAX_BYTES = 1 << 24

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS = 256, 257, 258, 259, 262, 273, 277, 278
_COUNTS, _PLANAR, _EXTRA, _FORMAT, _SCALE, _TIEPOINT = 279, 284, 338, 339, 33550, 33922
_GEO_KEYS = (34735, 34736, 34737)  # the directory, its doubles, its text
_REQUIRED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _FORMAT}
# Description, software, date, GDAL's metadata (GDAL reports a scale or offset in it without applying it), nodata: these
# affect neither pixels nor georeference.
_HARMLESS = (270, 305, 306, 42112, 42113)

_TYPES = {2: "s", 3: "H", 4: "I", 12: "d"}  # ASCII, SHORT, LONG, DOUBLE
_BYTES = {"s": 1, "H": 2, "I": 4, "d": 8}
_LETTERS = {  # tag -> allowed types; a file with any other tag is left to rasterio
    **dict.fromkeys(_REQUIRED, "HI"),
    **dict.fromkeys(_HARMLESS, "s"),
    **dict(zip((_EXTRA, _SCALE, _TIEPOINT, *_GEO_KEYS), "HddHds", strict=True)),
}
_DTYPES = {  # (sample format, bits)
    (1, 8): "<u1", (1, 16): "<u2", (1, 32): "<u4", (2, 16): "<i2", (2, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8",
}  # fmt: skip

_PIXELS = (*sorted(_REQUIRED), _EXTRA)  # the tags that determine the pixels

_Tags = dict[int, tuple[str, bytes]]  # tag -> letter of its type, its values as stored
_Values = tuple[tuple[int, tuple[str, bytes]], ...]  # the same, hashable
GeoKeys = tuple[bytes, ...]  # the three tags as stored; together they define the CRS. All empty: no CRS


@dataclass(frozen=True)
class Plain:
    """The content of a plain file. Its GeoKeys are not interpreted here."""

    pixels: NDArray[np.generic]  # [C H W], perhaps a read-only view of the file's bytes
    geo_keys: GeoKeys
    bounds: tuple[float, float, float, float] | None  # left, bottom, right, top if the GeoKeys define pixels as areas


def read_plain(data: bytes) -> Plain | None:
    """Decode a whole file; equal to rasterio's result. None for any file that is not plain, damaged ones included."""
    try:
        tags = _read_tags(data)
        if tags is None or (pixels := _read_pixels(data, tags)) is None:
            return None
        geo_keys = tuple(tags[tag][1] if tag in tags else b"" for tag in _GEO_KEYS)
        bounds = _read_bounds(tags, *pixels.shape[1:]) if any(geo_keys) else None
    except struct.error:  # values outside the file, or a wrong number of values
        return None
    return None if any(geo_keys) and bounds is None else Plain(pixels, geo_keys, bounds)


def _read_tags(data: bytes) -> _Tags | None:
    """The tags of the file's only directory. None if one is missing or unexpected."""
    magic, start = struct.unpack_from("<4sI", data)
    if magic != b"II*\0":
        return None
    (num,) = struct.unpack_from("<H", data, start)
    entries = _read_directory(data[start + 2 : start + 6 + 12 * num])
    if entries is None:
        return None
    tags: _Tags = {}
    for tag, letter, size, value in entries:
        if size > 4:
            start = int.from_bytes(value, "little")
            value = data[start : start + size]
        if len(value) < size:
            return None
        tags[tag] = letter, value[:size]
    return tags


@functools.lru_cache(maxsize=64)  # the files of an archive share their directory; its values are stored elsewhere
def _read_directory(directory: bytes) -> list[tuple[int, str, int, bytes]] | None:
    """(tag, letter of its type, size in bytes, values or their offset) of a directory. None if it is unexpected.

    struct.error if it is truncated.
    """
    *entries, following = struct.unpack("<" + len(directory) // 12 * "HHI4s" + "I", directory)
    tags = entries[::4]
    if (
        following or tags != sorted(set(tags)) or not _REQUIRED.issubset(tags)
    ):  # a second image; duplicates; out of order
        return None
    letters = [_TYPES.get(kind, "-") for kind in entries[1::4]]
    if any(letter not in _LETTERS.get(tag, "") for tag, letter in zip(tags, letters, strict=True)):
        return None
    sizes = [count * _BYTES[letter] for count, letter in zip(entries[2::4], letters, strict=True)]
    return list(zip(tags, letters, sizes, entries[3::4], strict=True))


def _numbers(tags: _Tags, tag: int, count: int) -> tuple[int, ...]:
    """The values of a tag. struct.error if the tag is missing or has another number of values."""
    letter, values = tags.get(tag, ("H", b""))
    return struct.unpack(f"<{count}{letter}", values)


def _read_pixels(data: bytes, tags: _Tags) -> NDArray[np.generic] | None:
    """[C H W] from strips that hold exactly their rows; a view of `data` if the strips are contiguous."""
    strips = _read_strips(len(data), tuple((tag, tags[tag]) for tag in _PIXELS if tag in tags))
    if strips is None:
        return None
    dtype, (planes, height, width, interleaved), spans = strips
    start = spans[0][0]
    if len(spans) > 1:
        data, start = b"".join(data[offset:end] for offset, end in spans), 0
    pixels = np.frombuffer(data, dtype, planes * height * width * interleaved, start)
    if interleaved == 1:
        return pixels.reshape(planes, height, width)
    return np.ascontiguousarray(np.moveaxis(pixels.reshape(height, width, interleaved), -1, 0))


@functools.lru_cache(maxsize=64)  # the files of an archive share their strip layout, too
def _read_strips(
    room: int, values: _Values
) -> tuple[np.dtype[Any], tuple[int, int, int, int], list[tuple[int, int]]] | None:
    """dtype, (planes, height, width, samples of a pixel in a plane), and the spans of a file of `room` bytes."""
    tags = dict(values)
    width, height, compression, photometric, bands, rows, planar = (
        _numbers(tags, tag, 1)[0] for tag in (_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _ROWS, _PLANAR)
    )
    kinds = set(zip(_numbers(tags, _FORMAT, bands), _numbers(tags, _BITS, bands), strict=True))
    dtype = _DTYPES.get(kinds.pop()) if len(kinds) == 1 else None
    extra = bands - {1: 1, 2: 3}.get(photometric, bands + 1)  # samples besides grey (0 is black) or RGB
    if dtype is None or compression != 1 or planar not in (1, 2) or extra < 0 or not (width and height and rows):
        return None
    if (extra or _EXTRA in tags) and not {0, 1, 2}.issuperset(_numbers(tags, _EXTRA, extra)):
        return None
    planes, interleaved = (bands, 1) if planar == 2 else (1, bands)
    num, row_bytes = -(-height // rows), width * interleaved * np.dtype(dtype).itemsize
    if planes * height * row_bytes > room:
        return None  # before anything of that size is allocated
    offsets = _numbers(tags, _OFFSETS, planes * num)
    sizes = [min(rows, height - number * rows) * row_bytes for number in range(num)] * planes
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    if list(_numbers(tags, _COUNTS, planes * num)) != sizes or min(offsets) < 8 or max(ends) > room:
        return None
    whole = list(offsets[1:]) == ends[:-1]
    spans = [(offsets[0], ends[-1])] if whole else list(zip(offsets, ends, strict=True))
    return np.dtype(dtype), (planes, height, width, interleaved), spans


def _read_bounds(tags: _Tags, height: int, width: int) -> tuple[float, float, float, float] | None:
    """Left, bottom, right, top of a raster whose tie point is its upper left corner; None for any other placement."""
    if _SCALE not in tags or _TIEPOINT not in tags:
        return None
    scale_x, scale_y, _ = _numbers(tags, _SCALE, 3)
    column, row, level, left, top, _ = _numbers(tags, _TIEPOINT, 6)
    if column or row or level or not (scale_x > 0 and scale_y > 0):
        return None
    bounds = (left, top - scale_y * height, left + scale_x * width, top)
    return bounds if all(map(math.isfinite, bounds)) else None
