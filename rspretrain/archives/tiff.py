"""Plain GeoTIFFs decoded from their bytes, without GDAL: most archives hold millions of them.

Opening one file of BigEarthNet with rasterio takes half a millisecond, most of it for GDAL and PROJ; its pixels lie in
it as they are. Only files that leave no choice are decoded here: classic little-endian TIFF of one image, strips, no
compression, every tag known, north up. For all others the answer is None, never a guess, and rasterio reads them.

Sources: TIFF 6.0 (Adobe 1992), sections 2 to 8; OGC 19-008r4 (GeoTIFF 1.1), annex B; GDAL's GTiff driver.
"""

import functools
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Bytes. GDAL's half millisecond matters for small files; a large one is not wanted in memory whole before its pixels.
LARGE = 1 << 24

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS = 256, 257, 258, 259, 262, 273, 277, 278
_COUNTS, _PLANAR, _EXTRA, _FORMAT, _SCALE, _TIEPOINT = 279, 284, 338, 339, 33550, 33922
_GEO_KEYS = (34735, 34736, 34737)  # the directory, its doubles, its text
_REQUIRED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PLANAR, _FORMAT}
# Description, software, date, GDAL's metadata (a scale or offset in it is told, not applied), the number for "not
# measured": neither pixels nor place follow from them.
_HARMLESS = (270, 305, 306, 42112, 42113)

_TYPES = {2: "s", 3: "H", 4: "I", 12: "d"}  # ASCII, SHORT, LONG, DOUBLE
_BYTES = {"s": 1, "H": 2, "I": 4, "d": 8}
_LETTERS = {  # tag -> the types that it may have; a tag that is not here makes a file one for rasterio
    **dict.fromkeys(_REQUIRED, "HI"),
    **dict.fromkeys(_HARMLESS, "s"),
    **dict(zip((_EXTRA, _SCALE, _TIEPOINT, *_GEO_KEYS), "HddHds", strict=True)),
}
_DTYPES = {  # (sample format, bits)
    (1, 8): "<u1", (1, 16): "<u2", (1, 32): "<u4", (2, 16): "<i2", (2, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8",
}  # fmt: skip

_PIXELS = (*sorted(_REQUIRED), _EXTRA)  # the tags that pixels follow from

_Tags = dict[int, tuple[str, bytes]]  # tag -> letter of its type, its values as they lie in the file
_Values = tuple[tuple[int, tuple[str, bytes]], ...]  # the same, to be compared
GeoKeys = tuple[bytes, ...]  # the three tags as they lie in the file; together they name the CRS, all empty none


@dataclass(frozen=True)
class Plain:
    """What a plain file holds. What its GeoKeys mean is not known here."""

    pixels: NDArray[np.generic]  # [C H W], perhaps a read-only view of the file's bytes
    geo_keys: GeoKeys
    bounds: tuple[float, float, float, float] | None  # left, bottom, right, top where its GeoKeys call pixels areas


def read_plain(data: bytes) -> Plain | None:
    """The content of a whole file, equal to rasterio's; None for whatever is not plain, damage included."""
    try:
        tags = _read_tags(data)
        if tags is None or (pixels := _read_pixels(data, tags)) is None:
            return None
        geo_keys = tuple(tags[tag][1] if tag in tags else b"" for tag in _GEO_KEYS)
        bounds = _read_bounds(tags, *pixels.shape[1:]) if any(geo_keys) else None
    except struct.error:  # values that do not lie in the file, or are not as many as they should be
        return None
    return None if any(geo_keys) and bounds is None else Plain(pixels, geo_keys, bounds)


def _read_tags(data: bytes) -> _Tags | None:
    """The tags of the only directory of the file. None where one is missing or strange."""
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


@functools.lru_cache(maxsize=64)  # the directories of an archive's files are alike: their numbers lie elsewhere
def _read_directory(directory: bytes) -> list[tuple[int, str, int, bytes]] | None:
    """(tag, letter of its type, bytes of its values, these or where they lie) of a directory, None where it is strange.

    struct.error where it is cut.
    """
    *entries, following = struct.unpack("<" + len(directory) // 12 * "HHI4s" + "I", directory)
    tags = entries[::4]
    if following or tags != sorted(set(tags)) or not _REQUIRED.issubset(tags):  # a second image; twice; out of order
        return None
    letters = [_TYPES.get(kind, "-") for kind in entries[1::4]]
    if any(letter not in _LETTERS.get(tag, "") for tag, letter in zip(tags, letters, strict=True)):
        return None
    sizes = [count * _BYTES[letter] for count, letter in zip(entries[2::4], letters, strict=True)]
    return list(zip(tags, letters, sizes, entries[3::4], strict=True))


def _numbers(tags: _Tags, tag: int, count: int) -> tuple[int, ...]:
    """The values of a tag. struct.error where they are not `count`, or it is missing."""
    letter, values = tags.get(tag, ("H", b""))
    return struct.unpack(f"<{count}{letter}", values)


def _read_pixels(data: bytes, tags: _Tags) -> NDArray[np.generic] | None:
    """[C H W] from strips that hold exactly their rows; a view of `data` where they follow one another."""
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


@functools.lru_cache(maxsize=64)  # as are their pixels' places
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
    extra = bands - {1: 1, 2: 3}.get(photometric, bands + 1)  # samples beside grey (least is black) or RGB
    if dtype is None or compression != 1 or planar not in (1, 2) or extra < 0 or not (width and height and rows):
        return None
    if (extra or _EXTRA in tags) and not {0, 1, 2}.issuperset(_numbers(tags, _EXTRA, extra)):
        return None
    planes, interleaved = (bands, 1) if planar == 2 else (1, bands)
    num, row_bytes = -(-height // rows), width * interleaved * np.dtype(dtype).itemsize
    if planes * height * row_bytes > room:
        return None  # before anything of that size is made
    offsets = _numbers(tags, _OFFSETS, planes * num)
    sizes = [min(rows, height - number * rows) * row_bytes for number in range(num)] * planes
    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    if list(_numbers(tags, _COUNTS, planes * num)) != sizes or min(offsets) < 8 or max(ends) > room:
        return None
    whole = list(offsets[1:]) == ends[:-1]
    spans = [(offsets[0], ends[-1])] if whole else list(zip(offsets, ends, strict=True))
    return np.dtype(dtype), (planes, height, width, interleaved), spans


def _read_bounds(tags: _Tags, height: int, width: int) -> tuple[float, float, float, float] | None:
    """Left, bottom, right, top of a raster whose first corner is tied to the Earth; None where it lies otherwise."""
    if _SCALE not in tags or _TIEPOINT not in tags:
        return None
    scale_x, scale_y, _ = _numbers(tags, _SCALE, 3)
    column, row, level, left, top, _ = _numbers(tags, _TIEPOINT, 6)
    if column or row or level or not (scale_x > 0 and scale_y > 0):
        return None
    bounds = (left, top - scale_y * height, left + scale_x * width, top)
    return bounds if all(map(math.isfinite, bounds)) else None
