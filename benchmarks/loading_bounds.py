"""Upper bounds for loaders: a copy of the bytes in memory, and a sequential read of files outside the page cache."""

import gc
import mmap
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL, c_size_t, c_ubyte, c_void_p, get_errno
from pathlib import Path
from typing import NamedTuple

import numpy as np
from loading_archives import WORKERS

from rspretrain.shardset.index import ShardSet

PIECE = 1 << 20  # bytes per read
MAX_CACHED = 0.01  # fraction of a cold file's pages that may be in the page cache
DROPS = 10  # attempts
_LIBC = CDLL(None, use_errno=True)
_LIBC.mincore.argtypes = [c_void_p, c_size_t, c_void_p]


class StillCachedError(RuntimeError):
    """Files cannot be dropped from the page cache."""


class Bound(NamedTuple):
    settings: str
    move: Callable[[], int]  # moves the bytes of all samples once, and returns their number
    prepare: Callable[[], None] | None = None

    def run(self, epochs: int) -> int:
        """The number of samples whose bytes were moved."""
        return sum(self.move() for _ in range(epochs))


def memcpy(shards: ShardSet) -> Bound:
    """Copy mapped shards with numpy into one buffer of a shard's size."""
    maps = [np.memmap(path, np.uint8, "r") for path in shards.urls()]
    buffer = np.empty(max(len(each) for each in maps), np.uint8)

    def move() -> int:
        for each in maps:
            np.copyto(buffer[: len(each)], each)
        return len(shards)

    return Bound("1 thread, mapped shards into a buffer of a shard's size", move)


def sequential_read(shards: ShardSet, prepare: Callable[[], None]) -> Bound:
    """Read all files from start to end, in as many threads as loaders have workers, and discard the bytes."""

    def read(path: str) -> None:
        buffer = bytearray(PIECE)
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while file.readinto(buffer):
                pass

    def move() -> int:
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(read, shards.urls()))
        return len(shards)

    return Bound(f"{WORKERS} threads, whole files, 1 MiB at a time", move, prepare)


def resident(path: Path) -> float:
    """The fraction of a file's pages that is in the page cache."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        pages = (c_ubyte * (-(-len(mapped) // mmap.PAGESIZE)))()
        start = np.frombuffer(mapped, np.uint8)
        failed = _LIBC.mincore(start.ctypes.data, len(mapped), pages)
        del start  # otherwise, the map cannot be closed
    if failed:
        raise OSError(get_errno(), f"mincore of {path} failed")
    return float(np.mean(np.frombuffer(pages, np.uint8) & 1))


def drop(files: Sequence[Path]) -> None:
    """Drop files from the page cache. StillCachedError if they stay: on a tmpfs, or while a process maps them."""
    gc.collect()
    for _ in range(DROPS):  # recently read pages are in a per-core list and survive the first attempt
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        warmest = max(files, key=resident)
        if resident(warmest) <= MAX_CACHED:
            return
        time.sleep(0.2)
    raise StillCachedError(
        f"{resident(warmest):.0%} of {warmest} stayed in the page cache, expected at most {MAX_CACHED:.0%}. Set TMPDIR "
        "to a folder on a disk, and stop other processes that map its files."
    )
