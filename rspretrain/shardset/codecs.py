"""How the arrays of a shard are compressed, if at all: losslessly, in formats that other programs read.

A member is the bytes of an .npy file: as they are (`.npy`), as a Zstandard frame (`.npy.zst`, RFC 8878), or as a Blosc
buffer (`.npy.blosc`, version 1) in which the bits of the numbers are sorted by significance before they are compressed.
The bytes follow from the array and from numcodecs' version, which requirements/ pins.

On real BigEarthNet-MM pairs (276 kB), per core, by benchmarks/compression.py: raw is copied at 63,000 pairs/s;
bitshuffle-lz4 leaves 72 % and decodes 14,000 pairs/s, bitshuffle-zstd 70 % at 6,300, zstd alone 83 % at 4,700. Raw is
for shards that fit into memory or lie on a fast local disk: their records have one stride. bitshuffle-lz4 is for all
that comes over a network or from a slow disk. bitshuffle-zstd is for keeping (EuroSAT: 42 % against 48 %).

A user of stock webdataset needs numcodecs and five lines, tested in tests/shardset/test_codecs.py:

    def decompress(key, data):
        if key.endswith(".npy.zst"):
            return np.load(io.BytesIO(numcodecs.zstd.decompress(data)))
        if key.endswith(".npy.blosc"):
            return np.load(io.BytesIO(numcodecs.blosc.decompress(data)))

    webdataset.WebDataset(urls).decode(decompress)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numcodecs.blosc
import numcodecs.zstd

# Blosc's own threads and its global lock stay out: the reader decodes in threads of its own, one buffer in each.
numcodecs.blosc.use_threads = False

LIMIT = 1 << 30  # bytes that a member may unfold to unless the caller knows better
_ZSTD_MAGIC = 0xFD2FB528.to_bytes(4, "little")
_BLOSC_HEADER = 16


@dataclass(frozen=True)
class Codec:
    """One way to write an array: the suffix of its member, and both directions."""

    suffix: str  # after "key.group."
    encode: Callable[[bytes, int], bytes]  # (bytes of the .npy file, bytes a number)
    size: Callable[[bytes], int]  # bytes that a member says it unfolds to. ValueError where it says nothing
    decode: Callable[[bytes, Any], Any]  # (member, buffer to fill or None)


def _copied(data: bytes, out: Any) -> Any:
    if out is None:
        return data
    memoryview(out).cast("B")[:] = data
    return out


def _zstd_size(data: bytes) -> int:
    """The content size of a frame's header (RFC 8878, 3.1.1.1)."""
    if data[:4] != _ZSTD_MAGIC or len(data) < 6:
        raise ValueError(f"no Zstandard frame: it starts with {data[:4]!r}")
    flags = data[4]
    single = flags >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]  # after the window's size and the dictionary's number
    num_bytes = (single, 2, 4, 8)[flags >> 6]
    if not num_bytes or len(data) < at + num_bytes:
        raise ValueError("a Zstandard frame that does not tell its size")
    return int.from_bytes(data[at : at + num_bytes], "little") + (256 if num_bytes == 2 else 0)


def _blosc_size(data: bytes) -> int:
    """The size in a buffer's header, if the buffer is as long as it says: Blosc trusts it."""
    if len(data) < _BLOSC_HEADER or int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError(f"no whole Blosc buffer: it has {len(data)} bytes")
    return int.from_bytes(data[4:8], "little")


def _bitshuffled(compressor: bytes, level: int) -> Codec:
    blosc = numcodecs.blosc
    return Codec(
        "npy.blosc",
        lambda data, itemsize: blosc.compress(data, compressor, level, blosc.BITSHUFFLE, 0, itemsize),
        _blosc_size,
        blosc.decompress,
    )


CODECS: dict[str, Codec] = {
    "raw": Codec("npy", lambda data, itemsize: data, len, _copied),
    "zstd": Codec(
        "npy.zst", lambda data, itemsize: numcodecs.zstd.compress(data, 3), _zstd_size, numcodecs.zstd.decompress
    ),
    "bitshuffle-lz4": _bitshuffled(b"lz4", 9),
    "bitshuffle-zstd": _bitshuffled(b"zstd", 5),
}


def codec_of(name: str) -> Codec:
    """The codec of that name. ValueError names those that there are."""
    if name not in CODECS:
        raise ValueError(f"Unknown codec {name!r}; known are {list(CODECS)}. Name one of these.")
    return CODECS[name]


def encode(codec: str, npy: bytes, itemsize: int) -> bytes:
    """The member that holds the bytes of an .npy file of numbers of `itemsize` bytes; one thread, always the same."""
    encoded: bytes = codec_of(codec).encode(npy, itemsize)
    return encoded


def decode(codec: str, member: bytes, limit: int = LIMIT, out: Any = None) -> Any:
    """The bytes of the .npy file; into `out`, a writable buffer of just that size, where it is given.

    Safe to call from several threads at once. ValueError where the member is damaged or, before anything is allocated,
    says that it unfolds to more than `limit` bytes (or to another size than `out` has).
    """
    known = codec_of(codec)
    try:
        size = known.size(member)
        room = memoryview(out).nbytes if out is not None else size
        if size > limit or size != room:
            raise ValueError(f"it says that it unfolds to {size:,} bytes, expected {min(room, limit):,} at most")
        decoded = known.decode(member, out)
        if memoryview(decoded).nbytes != size:
            raise ValueError(f"it unfolds to {memoryview(decoded).nbytes:,} bytes, expected {size:,}")
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"A member of {len(member):,} bytes cannot be decoded as {codec} ({error}). Run `rspretrain verify`."
        ) from error
    return decoded
