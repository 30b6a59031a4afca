"""Size and dtype of raster files from their first bytes: what an archive's groups are, without reading pixels.

TIFFs are asked here rather than by GDAL, which takes half a millisecond a file, or by Pillow, which knows no file of 13
bands: a constructor asks tens of thousands. Source: TIFF 6.0 (Adobe 1992), section 2; BigTIFF (Aware Systems 2004).
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
    """What one file says of itself. `dtype` is None for pictures other than TIFFs, which have 8 bits as a rule."""

    bands: int
    shape: tuple[int, int]  # (height, width) in pixels
    dtype: str | None  # numpy's name


def read_header(path: Path) -> Header | None:
    """The header of a TIFF, JPEG, PNG or BMP; None where there is none: reading the file will say what is wrong."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
            if start[:4] in (b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"):
                return _of_tags(_tags(file, start))
            file.seek(0)
            with _of_any_size(), Image.open(file) as picture:
                width, height = picture.size
                return Header(len(picture.getbands()), (height, width), None)
    except (OSError, UnidentifiedImageError, struct.error, KeyError, ValueError, OverflowError):
        return None


@contextlib.contextmanager
def _of_any_size() -> Iterator[None]:
    """Pillow refuses pictures of 179 megapixels and more, for whose pixels nobody asks it here."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def common_shape(headers: Iterable[Header | None]) -> tuple[int, int] | None:
    """(H, W) if all files have it; files without a header are left out. None where sizes differ or nothing is known."""
    shape = None
    for header in headers:
        if header is not None:
            if shape not in (None, header.shape):
                return None
            shape = header.shape
    return shape


def common_dtype(headers: Iterable[Header | None], default: str) -> str:
    """The dtype of most files (the first of equally many); `default` where no header says one."""
    found = Counter(header.dtype for header in headers if header is not None and header.dtype)
    return found.most_common(1)[0][0] if found else default


def evenly(items: Sequence[_T], most: int) -> Sequence[_T]:
    """At most `most` of the items, the first among them, evenly over the sequence."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def _of_tags(tags: dict[int, int]) -> Header:
    bits = min(each for each in (8, 16, 32, 64) if tags.get(_BITS, 1) <= each)  # GDAL reads 12 bits as 16
    return Header(tags.get(_SAMPLES, 1), (tags[_HEIGHT], tags[_WIDTH]), f"{_KINDS[tags.get(_FORMAT, 1)]}{bits}")


def _tags(file: BinaryIO, start: bytes) -> dict[int, int]:
    """The first value of every tag of whole numbers in the first directory; GDAL knows no file whose bands differ."""
    order = "<" if start[:1] == b"I" else ">"
    big = _BIG in start[2:4]
    (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", start, 8 if big else 4)
    file.seek(at)
    (count,) = struct.unpack(f"{order}Q" if big else f"{order}H", file.read(8 if big else 2))
    entry = struct.Struct(f"{order}HHQ8s" if big else f"{order}HHI4s")
    directory = file.read(entry.size * min(count, 1 << 16))
    if len(directory) != entry.size * count:
        raise ValueError(f"{len(directory)} bytes of a directory of {count} tags. Unpack or download the file again.")
    tags: dict[int, int] = {}
    for tag, kind, length, value in entry.iter_unpack(directory):
        if kind in _INTEGERS:
            number = struct.Struct(order + _INTEGERS[kind])
            if length * number.size > len(value):
                file.seek(struct.unpack(f"{order}Q" if big else f"{order}I", value)[0])
                value = file.read(number.size)
            (tags[tag],) = number.unpack_from(value)
    return tags
