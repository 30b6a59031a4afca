"""Copies samples from memory-mapped shards into batch buffers: one copy, no parsing, no allocation, no pickling.

A uniform shard is viewed as one array of records with a fixed stride; samples of other shards are located by the
offsets in the index. The first time a run reads a sample, its bytes are compared with the checksum in the index.
`Reader` reads one shard set, `JointReader` all sets of a run.
"""

import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from rspretrain.arrays import Ints
from rspretrain.download.file_locks import Lease
from rspretrain.download.transfer import TransferError
from rspretrain.shardset.index import CorruptSampleError, ShardSet, corrupt_message, restore_from_copy
from rspretrain.shardset.record import decode_array, npy_header
from rspretrain.streaming.quarantine import Quarantine
from rspretrain.streaming.shard_prefetcher import ShardPrefetcher
from rspretrain.streaming.sources import Sources

Array = NDArray[Any]


@dataclass(frozen=True)
class Buffers:
    """Memory of a batch: one array per group, and the image sizes of groups whose images differ in size."""

    images: dict[str, Array]  # group -> [B C H W], contiguous
    sizes: dict[str, Ints]  # group -> [B 2]

    @cached_property
    def flat(self) -> dict[str, NDArray[np.uint8]]:
        """group -> [B bytes], views of the same memory."""
        return {name: array.reshape(len(array), -1).view(np.uint8) for name, array in self.images.items()}


@dataclass(frozen=True)
class _Mapped:
    """One open shard: all its bytes, and for uniform shards the pixels of every group as [records, bytes]."""

    data: NDArray[np.uint8]
    pixels: dict[str, NDArray[np.uint8]]
    lease: Lease | None = None  # of a cached shard of a remote set


class Reader:
    """Gathers rows of a shard set into buffers. Thread-safe if every thread uses its own buffers."""

    def __init__(
        self,
        shards: ShardSet,
        groups: Sequence[str],
        *,
        verify: bool = True,
        quarantine: Quarantine | None = None,
        fetches: int = 4,
    ) -> None:
        missing = [name for name in groups if name not in shards.groups]
        if missing:
            raise ValueError(
                f"{shards.path} has no groups {missing}, expected some of {sorted(shards.groups)}. Choose bands "
                "of these groups."
            )
        self._shards = shards
        self._groups = tuple(groups)
        self._shard_of: Array = shards.numbers("shard")
        self._record_of: Array = shards.numbers("record")
        self._open: dict[int, _Mapped] = {}
        self._opening = threading.Lock()
        self._prefetcher = ShardPrefetcher(shards.remote, fetches) if shards.remote else None
        # Two threads may check the same sample twice, which is harmless; every sample is checked.
        self._unchecked = np.full(len(shards), verify)
        self.quarantine = quarantine
        self._damaged: set[int] = set()
        self._codec = shards.manifest.codec

    def gather(self, rows: Ints, buffers: Buffers, slots: Iterable[int]) -> Ints:
        """Copy the samples `rows` to `slots` in the buffers; returns the rows that were copied.

        These are `rows`, except for damaged samples that the quarantine replaced. RuntimeError if a shard is missing or
        its size differs from the manifest, CorruptSampleError if a sample's checksum does not match.
        """
        if self.quarantine is not None:
            rows = self.quarantine.replace(rows, self._is_intact)
        whole = buffers.images.keys() - buffers.sizes.keys()  # groups whose images all have the full size
        samples = zip(
            slots, rows.tolist(), self._shard_of[rows].tolist(), self._record_of[rows].tolist(),
            self._unchecked[rows].tolist(), strict=True,
        )  # fmt: skip
        for slot, row, shard, record, unchecked in samples:
            mapped = self._open.get(shard) or self._map(shard)
            # Check and copy sample by sample: its bytes are still in the core's cache when they are copied, which is a
            # third faster than checking all samples first.
            if unchecked:
                mapped = self._checked(shard, row)
            for name in self._groups:
                source = mapped.pixels.get(name)
                if name in whole and source is not None:
                    buffers.flat[name][slot] = source[record]  # numpy copies a row without holding the GIL
                else:
                    self._decode(mapped, name, row, buffers, slot)
        return rows

    @contextmanager
    def prefetching(self) -> Iterator[None]:
        """Download the shards set by `prefetch` in advance while the block runs. No effect for a local set."""
        with self._prefetcher.running() if self._prefetcher else nullcontext():
            try:
                yield
            finally:
                self._open = {} if self._prefetcher else self._open

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Set the shards of a remote set that are needed from now on, in order; all others are closed."""
        if self._prefetcher is not None:
            with self._opening:
                for number in self._open.keys() - set(numbers):
                    del self._open[number]  # a thread that still copies from it has its own reference
            self._prefetcher.request(numbers)

    def stop(self) -> None:
        """Cancel all waits for shards of a remote set."""
        if self._prefetcher is not None:
            self._prefetcher.stop()

    def _is_intact(self, row: int) -> bool:
        if self._unchecked[row] and row not in self._damaged:
            try:
                self._checked(int(self._shard_of[row]), row)
            except CorruptSampleError:
                self._damaged.add(row)
        return row not in self._damaged

    def _decode(self, mapped: _Mapped, name: str, row: int, buffers: Buffers, slot: int) -> None:
        """Decode an image of any size and codec into the upper left of its slot; the other pixels keep old values."""
        start = int(self._shards.numbers(f"offset_{name}")[row])
        member = mapped.data[start : start + int(self._shards.numbers(f"bytes_{name}")[row])]
        image = decode_array(member.data, self._codec)
        _, height, width = image.shape
        buffers.images[name][slot, :, :height, :width] = image
        if name in buffers.sizes:
            buffers.sizes[name][slot] = height, width

    def _checked(self, number: int, row: int) -> _Mapped:
        """The shard, after verifying the checksum of `row`; CorruptSampleError if it does not match.

        A remote shard that was damaged in the cache is downloaded again first, once.
        """
        while not self._checksum_matches(mapped := self._map(number), row):
            remedy = self._renew(number, mapped)
            if remedy is not None:
                raise CorruptSampleError(corrupt_message(self._shards, row, remedy))
        return mapped

    def _checksum_matches(self, mapped: _Mapped, row: int) -> bool:
        start = int(self._shards.numbers("offset")[row])
        record = mapped.data[start : start + int(self._shards.numbers("bytes")[row])]
        if xxhash.xxh3_64_intdigest(record.data) != int(self._shards.numbers("checksum")[row]):
            return False
        self._unchecked[row] = False
        return True

    def _renew(self, number: int, mapped: _Mapped) -> str | None:
        """None if a new copy of the shard was downloaded, else the remedy for the error message."""
        if self._prefetcher is None or mapped.lease is None:
            return restore_from_copy(self._shards)
        remedy = self._prefetcher.renew(number, mapped.lease)
        if remedy is None:
            with self._opening:
                if self._open.get(number) is mapped:
                    del self._open[number]
        return remedy

    def _map(self, number: int) -> _Mapped:
        mapped = self._open.get(number)
        if mapped is None and self._prefetcher is not None:
            return self._map_remote(self._prefetcher, number)
        if mapped is None:
            with self._opening:
                if number not in self._open:
                    self._open[number] = self._open_shard(number)
                mapped = self._open[number]
        return mapped

    def _map_remote(self, prefetcher: ShardPrefetcher, number: int) -> _Mapped:
        """Waits for the shard before taking the lock, so that other threads can open theirs meanwhile."""
        try:
            lease = prefetcher.lease(number)
        except TransferError:
            if self.quarantine is None:
                raise
            mapped = _Mapped(np.empty(0, np.uint8), {})
        else:
            # The mapping duplicates the file descriptor and its lock: the shard is not evicted while it is mapped.
            data = np.frombuffer(mmap.mmap(lease.fileno(), 0, prot=mmap.PROT_READ), dtype=np.uint8)
            entry = self._shards.manifest.shards[number]
            mapped = _Mapped(data, self._pixels(data, entry.samples) if entry.uniform else {}, lease)
        with self._opening:
            return self._open.setdefault(number, mapped)

    def _open_shard(self, number: int) -> _Mapped:
        entry = self._shards.manifest.shards[number]
        path = self._shards.path / entry.name
        try:
            with path.open("rb") as file:
                data = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), dtype=np.uint8)
        except (OSError, ValueError) as error:
            if self.quarantine is not None:
                return _Mapped(np.empty(0, np.uint8), {})
            raise RuntimeError(
                f"Shard {path} cannot be opened ({error}), expected {entry.samples} samples. Restore it from a copy."
            ) from None
        if len(data) != entry.bytes and self.quarantine is not None:
            return _Mapped(data, {})  # checksums show which samples are intact
        if len(data) != entry.bytes:
            raise RuntimeError(
                f"Shard {path} has {len(data)} bytes, expected {entry.bytes}: it was truncated or replaced. "
                f"Run `rspretrain verify {self._shards.path}`, then restore it from a copy."
            )
        return _Mapped(data, self._pixels(data, entry.samples) if entry.uniform else {})

    def _pixels(self, data: NDArray[np.uint8], records: int) -> dict[str, NDArray[np.uint8]]:
        layout = self._shards.manifest.layout
        assert layout is not None, "only shards with a layout are marked as uniform"
        table = data[: records * layout.record_bytes].reshape(records, layout.record_bytes)
        pixels = {}
        for name in self._groups:
            span, group = layout.members[name], self._shards.groups[name]
            assert group.shape is not None, "a layout contains only groups of fixed shape"
            header = len(npy_header(group.dtype, (len(group.bands), *group.shape)))
            pixels[name] = table[:, span.offset + header : span.offset + span.bytes]
        return pixels


class JointReader:
    """Gathers rows of Sources, each from its own shard set. Thread-safe if every thread uses its own buffers."""

    def __init__(self, sources: Sources, readers: Sequence[Reader]) -> None:
        self.sources, self._readers = sources, readers

    def gather(self, rows: Ints, buffers: Buffers) -> Ints:
        """Copy the samples `rows` into the first len(rows) slots; returns the copied rows. See Reader.gather."""
        if len(self._readers) == 1:
            return self._readers[0].gather(rows, buffers, range(len(rows)))
        copied = np.empty_like(rows)
        numbers, local = self.sources.locate(rows)
        for number, (reader, first) in enumerate(zip(self._readers, self.sources.first_rows, strict=False)):
            slots = np.flatnonzero(numbers == number)
            copied[slots] = first + reader.gather(local[slots], buffers, slots.tolist())
        return copied

    @property
    def replacements(self) -> dict[int, int]:
        """Damaged row -> the row that replaces it, of the damaged rows found so far."""
        return {
            first + row: first + other
            for reader, first in zip(self._readers, self.sources.first_rows, strict=False)
            if reader.quarantine is not None
            for row, other in reader.quarantine.replacements.items()
        }

    @contextmanager
    def prefetching(self) -> Iterator[None]:
        """Download the shards set by `prefetch` in advance while the block runs. No effect for local sets."""
        with ExitStack() as stack:
            for reader in self._readers:
                stack.enter_context(reader.prefetching())
            yield

    def prefetch(self, numbers: Sequence[Sequence[int]]) -> None:
        """Set the shards of each source that are needed from now on, in order."""
        for reader, shards in zip(self._readers, numbers, strict=True):
            reader.prefetch(shards)

    def stop(self) -> None:
        """Cancel all waits for shards of remote sets."""
        for reader in self._readers:
            reader.stop()
