"""Size and dtype of raster files from their headers, without reading pixels.

TIFF headers are parsed here because an archive's constructor reads tens of thousands of them: GDAL takes 0.5 ms per
file, and Pillow does not open files of 13 bands. Source: TIFF 6.0 (Adobe 1992), section 2; BigTIFF (Aware Systems
2004).
"""

import contextlib
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image, UnidentifiedImageError

_T = TypeVar("_T")
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _FORMAT = 256, 257, 258, 277, 339
_KINDS = {1: "uint", 2: "int", 3: "float"}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # field type -> struct's letter
_BIG = 43


@dataclass(frozen=True)
class Header:
    """The header of one file. `dtype` is None for JPEG, PNG and BMP, which usually have 8 bits."""

    bands: int
    shape: tuple[int, int]  # (height, width) in pixels
    dtype: str | None  # numpy's name


def read_header(path: Path) -> Header | None:
    """The header of a TIFF, JPEG, PNG or BMP. None if it cannot be read; reading the pixels then reports the error."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            if start[:4] in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"):
                return _header_of_tags(_tags(file, start))
            file.seek(0)
            with _any_size(), Image.open(file) as picture:
                width, height = picture.size
                return Header(len(picture.getbands()), (height, width), None)
    except (OSError, UnidentifiedImageError, struct.error, KeyError, ValueError, OverflowError):
        return None


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lift Pillow's limit of 179 megapixels, which protects the decoding of pixels; only headers are read here."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def common_shape(headers: Iterable[Header | None]) -> tuple[int, int] | None:
    """(H, W) shared by all files that have a header. None if sizes differ or no file has a header."""
    shape = None
    for header in headers:
        if header is not None:
            if shape not in (None, header.shape):
                return None
            shape = header.shape
    return shape


def common_dtype(headers: Iterable[Header | None], default: str) -> str:
    """The most frequent dtype (the first on a tie); `default` if no header gives one."""
    found = Counter(header.dtype for header in headers if header is not None and header.dtype)
    return found.most_common(1)[0][0] if found else default


def sample_evenly(items: Sequence[_T], most: int) -> Sequence[_T]:
    """At most `most` of the items, evenly spaced, starting with the first."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def _header_of_tags(tags: dict[int, int]) -> Header:
    bits = min(each for each in (8, 16, 32, 64) if tags.get(_BITS, 1) <= each)  # GDAL reads 12 bits as 16
    return Header(tags.get(_SAMPLES, 1), (tags[_HEIGHT], tags[_WIDTH]), f"{_KINDS[tags.get(_FORMAT, 1)]}{bits}")


def _tags(file: BinaryIO, start: bytes) -> dict[int, int]:
    """The first value of every integer tag in the first directory. GDAL requires all bands of a file to be alike."""
    order = "<" if start[:1] == b"I" else ">"
    big = _BIG in start[2:4]
    (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", start, 8 if big else 4)
    file.seek(at)
    (count,) = struct.unpack(f"{order}Q" if big else f"{order}H", file.read(8 if big else 2))
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHI4s")
    directory = file.read(entry.size * min(count, 1 << 16))
    if len(directory) != entry.size * count:
        raise ValueError(
            f"the directory of {count} tags has only {len(directory)} bytes. Unpack or download the file again."
        )
    tags: dict[int, int] = {}
    for tag, kind, length, value in entry.iter_unpack(directory):
        if kind in _INTEGERS:
            number = struct.Struct(order + _INTEGERS[kind])
            if length * number.size > len(value):
                file.seek(struct.unpack(f"{order}Q" if big else f"{order}I", value)[0])
                value = file.read(number.size)
            (tags[tag],) = number.unpack_from(value)
    return tags
