"""Optional lossless compression of the arrays in a shard, in formats that other programs read.

A member holds an .npy file: uncompressed (`.npy`), as a Zstandard frame (`.npy.zst`, RFC 8878), or as a Blosc buffer
(`.npy.blosc`, version 1) with bit shuffling. The bytes depend on the array and the version of numcodecs, which
requirements/ pins.

On real BigEarthNet-MM pairs (276 kB), per core, by benchmarks/compression.py: raw copies 63,000 pairs/s;
bitshuffle-lz4 compresses to 72 % and decodes 14,000 pairs/s, bitshuffle-zstd to 70 % and 6,300, zstd to 83 % and 4,700.
Use raw for shards that fit into memory or are on a fast local disk: their records have one stride. Use bitshuffle-lz4
over a network or from a slow disk, and bitshuffle-zstd for archiving (EuroSAT: 42 % against 48 %).

Stock webdataset reads them with numcodecs and five lines, tested in tests/shardset/test_codecs.py:

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

# Disable Blosc's threads and their global lock: the reader decodes in its own threads.
numcodecs.blosc.use_threads = False

LIMIT = 1 << 30  # default limit of the decoded size of a member in bytes
_ZSTD_MAGIC = 0xFD2FB528.to_bytes(4, "little")
_BLOSC_HEADER = 16


@dataclass(frozen=True)
class Codec:
    """A codec: suffix of its members, encoder, decoder, and decoded size."""

    suffix: str  # after "key.group."
    encode: Callable[[bytes, int], bytes]  # (bytes of the .npy file, bytes per number)
    size: Callable[[bytes], int]  # decoded size in bytes; ValueError if the member does not state it
    decode: Callable[[bytes, Any], Any]  # (member, buffer to fill or None)


def _copy(data: bytes, out: Any) -> Any:
    if out is None:
        return data
    memoryview(out).cast("B")[:] = data
    return out


def _zstd_size(data: bytes) -> int:
    """The content size in the header of a frame (RFC 8878, 3.1.1.1)."""
    if data[:4] != _ZSTD_MAGIC or len(data) < 6:
        raise ValueError(f"not a Zstandard frame: it starts with {data[:4]!r}")
    flags = data[4]
    single = flags >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3]  # after the window size and the dictionary number
    num_bytes = (single, 2, 4, 8)[flags >> 6]
    if not num_bytes or len(data) < at + num_bytes:
        raise ValueError("a Zstandard frame without its size")
    return int.from_bytes(data[at : at + num_bytes], "little") + (256 if num_bytes == 2 else 0)


def _blosc_size(data: bytes) -> int:
    """The decoded size in the header of a buffer. The length is checked because Blosc trusts it."""
    if len(data) < _BLOSC_HEADER or int.from_bytes(data[12:16], "little") != len(data):
        raise ValueError(f"not a complete Blosc buffer: it has {len(data)} bytes")
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
    "raw": Codec("npy", lambda data, itemsize: data, len, _copy),
    "zstd": Codec(
        "npy.zst", lambda data, itemsize: numcodecs.zstd.compress(data, 3), _zstd_size, numcodecs.zstd.decompress
    ),
    "bitshuffle-lz4": _bitshuffled(b"lz4", 9),
    "bitshuffle-zstd": _bitshuffled(b"zstd", 5),
}


def codec_of(name: str) -> Codec:
    """The codec of that name. ValueError, listing all codecs, if it is unknown."""
    if name not in CODECS:
        raise ValueError(f"Unknown codec {name!r}; expected one of {list(CODECS)}. Choose one of these.")
    return CODECS[name]


def encode(codec: str, npy: bytes, itemsize: int) -> bytes:
    """Encode the bytes of an .npy file whose numbers have `itemsize` bytes. Single-threaded and deterministic."""
    encoded: bytes = codec_of(codec).encode(npy, itemsize)
    return encoded


def decode(codec: str, member: bytes, limit: int = LIMIT, out: Any = None) -> Any:
    """Decode a member to the bytes of its .npy file, into `out` if given (a writable buffer of exactly that size).

    Thread-safe. ValueError if the member is damaged, or if its stated size exceeds `limit` or differs from `out`; this
    is checked before anything is allocated.
    """
    known = codec_of(codec)
    try:
        size = known.size(member)
        room = memoryview(out).nbytes if out is not None else size
        if size > limit or size != room:
            raise ValueError(f"its decoded size is {size:,} bytes, expected {min(room, limit):,} at most")
        decoded = known.decode(member, out)
        if memoryview(decoded).nbytes != size:
            raise ValueError(f"it decodes to {memoryview(decoded).nbytes:,} bytes, expected {size:,}")
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"A member of {len(member):,} bytes cannot be decoded as {codec} ({error}). Run `rspretrain verify`."
        ) from error
    return decoded
