"""Encode and decode one sample as tar members: `key.<group>.npy` per group, `key.cls` for a single label, `key.json`.

Any tar or webdataset reader reads them. In addition, the bytes depend on the patch alone (mtime, owner and order are
fixed), JSON is padded with spaces to a fixed size, so that records of equally sized images have equal length, and the
JSON holds a checksum of every array, so that damage is located per member.
"""

import io
import json
import math
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from rspretrain.archives.base import Nomenclature
from rspretrain.patch import KEY_PATTERN, Patch, PatchError, type_of_attribute
from rspretrain.sensors import Group
from rspretrain.settings import Settings
from rspretrain.shardset import codecs
from rspretrain.shardset.manifest import Layout, Span

BLOCK = 512  # tar's unit
END_OF_TAR = bytes(2 * BLOCK)
RAW = "raw"  # the codec without compression
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<|][uifb][1248])', 'fortran_order': False, 'shape': \(((?:\d{1,9}, ?)*(?:\d{1,9})?)\), \} *\n"
)
NAME_LIMIT = 100  # bytes of a name in a ustar header
_CHECKSUM = slice(148, 155)  # of a tar header: six octal digits and a zero
_Pieces = Sequence[bytes | memoryview]  # a payload, copied only once when the record is joined


class Metadata(Settings):
    """The JSON of a record."""

    key: str
    labels: dict[str, tuple[str, ...]]
    split: str | None
    crs: str | None
    bounds: tuple[float, float, float, float] | None
    attributes: dict[str, type_of_attribute]
    bands: dict[str, tuple[str, ...]]
    xxh3: dict[str, str]  # group -> XXH3 of the member's bytes, as hexadecimal text

    @property
    def patch(self) -> Patch:
        """The described patch, without images."""
        return Patch(self.key, {}, self.labels, self.split, self.crs, self.bounds, self.attributes)


@dataclass(frozen=True)
class Record:
    """The bytes of one sample in a shard, and the positions of the payloads of its members."""

    data: bytes | memoryview
    members: dict[str, Span]  # "s1_10m", …, "cls", "json"

    @property
    def checksum(self) -> int:
        """XXH3 (64 bit) of all bytes: payloads, headers and padding."""
        return xxhash.xxh3_64_intdigest(self.data)


@lru_cache(maxsize=4096)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header of a C-ordered little-endian .npy file, version 1.0."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@lru_cache(maxsize=4096)
def parse_npy_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape from the header of an .npy file; cached, because shards repeat few headers.

    ValueError for anything but little-endian numbers in C order. Nothing is evaluated: numpy's reader passes the text
    to Python's parser, which fails in many ways on damaged bytes.
    """
    found = _NPY_HEADER.fullmatch(header[10:])
    if found is None:
        raise ValueError(f"array header {header[10:70]!r}, expected plain little-endian numbers in C order")
    try:
        dtype = np.dtype(found[1].decode())
    except TypeError:  # '<b4' is one bit away from '<f4'
        raise ValueError(f"array header {header[10:70]!r}, expected a dtype of numpy") from None
    return dtype, tuple(int(size) for size in found[2].split(b",") if size.strip())


def npy_header_bytes(start: bytes) -> int:
    """Length of the header of an .npy file (version 1.0), from its first ten bytes."""
    if start[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError(f"not an .npy member: it starts with {start[:8]!r}")
    return 10 + int.from_bytes(start[8:10], "little")


def decode_array(member: bytes | memoryview, codec: str = RAW) -> NDArray[Any]:
    """Decode the array of a member; a view of its bytes for raw. Never unpickles. ValueError if it is damaged."""
    data = member if codec == RAW else codecs.decode(codec, bytes(member))
    length = npy_header_bytes(bytes(data[:10]))
    dtype, shape = parse_npy_header(bytes(data[:length]))
    if length + math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes, expected those of a {dtype} array {shape}")
    return np.frombuffer(data, dtype, offset=length).reshape(shape)


def padded(size: int) -> int:
    """Round up to a multiple of the block size of tar."""
    return -(-size // BLOCK) * BLOCK


def check_patch(patch: Patch, groups: Sequence[Group], nomenclatures: Mapping[str, Nomenclature]) -> None:
    """PatchError if bands, dtypes, shapes, values, labels or key of a patch do not match its archive."""
    if not KEY_PATTERN.fullmatch(patch.key):
        raise PatchError(f"key {patch.key!r} is not of the form [a-z0-9_-]+")
    if sorted(patch.images) != sorted(group.name for group in groups):
        raise PatchError(f"has groups {sorted(patch.images)}, expected {sorted(group.name for group in groups)}")
    for group in groups:
        check_image(patch.images[group.name], group)
    for name, labels in patch.labels.items():
        known = nomenclatures[name]
        if unknown := [label for label in labels if label not in known.names]:
            raise PatchError(f"labels {unknown} are not in nomenclature {name!r}")
        if not known.multi and len(labels) != 1:
            raise PatchError(f"has labels {list(labels)} in the single-label nomenclature {name!r}, expected one")


def check_image(image: NDArray[Any], group: Group) -> None:
    """PatchError if dtype, shape or values of an image [C H W] do not match its group."""
    if image.dtype != np.dtype(group.dtype):
        raise PatchError(f"group {group.name} has dtype {image.dtype}, expected {group.dtype}")
    if image.ndim != 3 or image.shape[0] != len(group.bands):
        raise PatchError(f"group {group.name} has shape {image.shape}, expected {len(group.bands)} bands [C H W]")
    if group.shape is not None and image.shape[1:] != group.shape:
        raise PatchError(f"group {group.name} is {image.shape[1:]} pixels, expected {group.shape}")
    if np.issubdtype(image.dtype, np.floating):
        bad = ~np.isfinite(image)
        if bad.any():
            counts = {band: int(n) for band, n in zip(group.bands, bad.sum((1, 2)), strict=True) if n}
            raise PatchError(f"group {group.name} has NaN or infinite pixels, by band: {counts}")


def encode(
    patch: Patch,
    groups: Sequence[Group],
    nomenclatures: Mapping[str, Nomenclature],
    metadata_bytes: int,
    codec: str = RAW,
) -> Record:
    """Encode a patch that passes `check_patch`. PatchError if its key is too long for a tar header."""
    payloads: dict[str, _Pieces] = {}
    checksums = {}
    for group in groups:
        payloads[group.name] = _npy(patch.images[group.name], group.dtype, codec)
        checksums[group.name] = _hexdigest(payloads[group.name])
    single = next((name for name, n in nomenclatures.items() if not n.multi and name in patch.labels), None)
    if single is not None:
        payloads["cls"] = [str(nomenclatures[single].names.index(patch.labels[single][0])).encode()]
    payloads["json"] = [_metadata(patch, groups, checksums).ljust(metadata_bytes)]
    return _join(patch.key, payloads, codec)


def _npy(image: NDArray[Any], dtype: str, codec: str) -> _Pieces:
    image = np.ascontiguousarray(image, dtype=np.dtype(dtype).newbyteorder("<"))
    npy: _Pieces = [npy_header(dtype, image.shape), image.data]
    return npy if codec == RAW else [codecs.encode(codec, b"".join(npy), image.dtype.itemsize)]


def _hexdigest(pieces: _Pieces) -> str:
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _metadata(patch: Patch, groups: Sequence[Group], checksums: dict[str, str]) -> bytes:
    content = {
        "key": patch.key,
        "labels": {name: list(labels) for name, labels in patch.labels.items()},
        "split": patch.split,
        "crs": patch.crs,
        "bounds": patch.bounds,
        "attributes": patch.attributes,
        "bands": {group.name: list(group.bands) for group in groups},
        "xxh3": checksums,
    }
    return json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()


def _join(key: str, payloads: Mapping[str, _Pieces], codec: str) -> Record:
    parts: list[bytes | memoryview] = []
    members: dict[str, Span] = {}
    position = 0
    for name, pieces in payloads.items():
        size = sum(memoryview(piece).nbytes for piece in pieces)
        parts += [tar_header(f"{key}.{member_suffix(name, codec)}", size), *pieces, bytes(padded(size) - size)]
        members[name] = Span(offset=position + BLOCK, bytes=size)
        position += BLOCK + padded(size)
    return Record(b"".join(parts), members)


def member_suffix(name: str, codec: str = RAW) -> str:
    """The part of a member's file name after the key: `<group>.npy` (or compressed), `cls` or `json`."""
    return name if name in ("cls", "json") else f"{name}.{codecs.codec_of(codec).suffix}"


def single_label(nomenclatures: Mapping[str, Nomenclature]) -> bool:
    """Whether records of an archive have a `.cls` member."""
    return any(not nomenclature.multi for nomenclature in nomenclatures.values())


def tar_header(name: str, size: int) -> bytes:
    """The tar header of a member. PatchError if the name is too long."""
    if len(name) > NAME_LIMIT:
        raise PatchError(f"member name {name!r} has {len(name)} characters, a tar header holds {NAME_LIMIT}")
    nameless, text = _nameless_header(size), name.encode()
    checksum = b"%06o\0" % (int(nameless[_CHECKSUM][:6], 8) + sum(text))
    return (
        text.ljust(NAME_LIMIT, b"\0") + nameless[NAME_LIMIT : _CHECKSUM.start] + checksum + nameless[_CHECKSUM.stop :]
    )


@lru_cache(maxsize=4096)  # creating one takes 25 us, and a patch has five
def _nameless_header(size: int) -> bytes:
    info = tarfile.TarInfo()
    info.size, info.mtime, info.mode = size, 0, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def fixed_layout(groups: Sequence[Group], single_label: bool, metadata_bytes: int) -> Layout | None:
    """The layout of all records with the shapes of the groups; None if images of a group differ in size."""
    members: dict[str, Span] = {}
    position = 0
    for group in groups:
        if group.shape is None:
            return None
        shape = (len(group.bands), *group.shape)
        size = len(npy_header(group.dtype, shape)) + int(np.prod(shape)) * np.dtype(group.dtype).itemsize
        members[group.name] = Span(offset=position + BLOCK, bytes=size)
        position += BLOCK + padded(size)
    position += 2 * BLOCK if single_label else 0
    members["json"] = Span(offset=position + BLOCK, bytes=metadata_bytes)
    return Layout(record_bytes=position + BLOCK + padded(metadata_bytes), members=members)


def matches_layout(record: Record, layout: Layout | None) -> bool:
    """Whether size and member positions of a record match a layout."""
    return (
        layout is not None
        and len(record.data) == layout.record_bytes
        and all(record.members[name] == span for name, span in layout.members.items())
    )
