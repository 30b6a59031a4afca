"""Memory-mapped shards to batch buffers: one copy from the page cache, no parsing, no allocation, no pickling.

A uniform shard is seen as one array of records with a fixed stride; everything else goes through the offsets of the
index. The first time a run touches a sample, its bytes are checked against the index (design.md D3).
"""

import mmap
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from rspretrain.download.file_locks import Lease
from rspretrain.download.transfer import TransferError
from rspretrain.shardset.index import CorruptSampleError, ShardSet, corrupt_message, restore_from_copy
from rspretrain.shardset.record import decode_array, npy_header
from rspretrain.streaming.quarantine import Quarantine
from rspretrain.streaming.shard_prefetcher import ShardPrefetcher

Array = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Buffers:
    """Where a batch is gathered: a canvas for every group, and the sizes of images where they differ."""

    images: dict[str, Array]  # group -> [B C H W], contiguous
    sizes: dict[str, Ints]  # group -> [B 2]

    @cached_property
    def flat(self) -> dict[str, NDArray[np.uint8]]:
        """group -> [B bytes], the same memory."""
        return {name: array.reshape(len(array), -1).view(np.uint8) for name, array in self.images.items()}


@dataclass(frozen=True)
class _Mapped:
    """One open shard: all its bytes, and for uniform shards the pixels of every group as rows [records, bytes]."""

    data: NDArray[np.uint8]
    pixels: dict[str, NDArray[np.uint8]]
    lease: Lease | None = None  # of a shard in the cache


class Reader:
    """Gathers rows of a shard set into buffers. Threads may share one reader, each with buffers of its own."""

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
            raise ValueError(f"{shards.path} has no groups {missing}; it has {sorted(shards.groups)}.")
        self._shards = shards
        self._groups = tuple(groups)
        self._shard_of: Array = shards.numbers("shard")
        self._record_of: Array = shards.numbers("record")
        self._open: dict[int, _Mapped] = {}
        self._opening = threading.Lock()
        self._ahead = ShardPrefetcher(shards.remote, fetches) if shards.remote else None
        # Threads may check a sample twice, which is harmless; none is ever left out.
        self._unchecked = np.full(len(shards), verify)
        self.quarantine = quarantine
        self._damaged: set[int] = set()
        self._codec = shards.manifest.codec

    def gather(self, rows: Ints, buffers: Buffers, places: Iterable[int]) -> Ints:
        """Copy the samples of `rows` to the places of the buffers that are named; returns the rows that are there.

        They are `rows` unless there is a quarantine. RuntimeError where a shard is missing or has another size than
        its manifest says, CorruptSampleError where a sample's checksum does not hold.
        """
        if self.quarantine is not None:
            rows = self.quarantine.replace(rows, self._is_sound)
        whole = buffers.images.keys() - buffers.sizes.keys()  # groups whose images fill their places
        where = zip(
            places, rows.tolist(), self._shard_of[rows].tolist(), self._record_of[rows].tolist(),
            self._unchecked[rows].tolist(), strict=True,
        )  # fmt: skip
        for place, row, shard, record, unchecked in where:
            mapped = self._open.get(shard) or self._map(shard)
            # One sample after the other: what the checksum has read is still in the core's cache when it is copied,
            # which is a third faster than all checks first.
            if unchecked:
                mapped = self._checked(shard, row)
            for name in self._groups:
                source = mapped.pixels.get(name)
                if name in whole and source is not None:
                    buffers.flat[name][place] = source[record]  # numpy copies a row without the interpreter's lock
                else:
                    self._decode(mapped, name, row, buffers, place)
        return rows

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Shards of a remote set are fetched ahead, as `expect` says, while the block runs. Local ones are there."""
        with self._ahead.running() if self._ahead else nullcontext():
            try:
                yield
            finally:
                self._open = {} if self._ahead else self._open

    def expect(self, numbers: Sequence[int]) -> None:
        """The shards of a remote set that are needed from now on, in order; all others are closed."""
        if self._ahead is not None:
            with self._opening:
                for number in self._open.keys() - set(numbers):
                    del self._open[number]  # a thread that still copies from it holds it itself
            self._ahead.want(numbers)

    def stop(self) -> None:
        """Whoever waits for a shard of a remote set gives up."""
        if self._ahead is not None:
            self._ahead.stop()

    def _is_sound(self, row: int) -> bool:
        if self._unchecked[row] and row not in self._damaged:
            try:
                self._checked(int(self._shard_of[row]), row)
            except CorruptSampleError:
                self._damaged.add(row)
        return row not in self._damaged

    def _decode(self, mapped: _Mapped, name: str, row: int, buffers: Buffers, place: int) -> None:
        """One image of any size and codec into the upper left of its place; the rest keeps whatever was there."""
        start = int(self._shards.numbers(f"offset_{name}")[row])
        member = mapped.data[start : start + int(self._shards.numbers(f"bytes_{name}")[row])]
        image = decode_array(member.data, self._codec)
        _, height, width = image.shape
        buffers.images[name][place, :, :height, :width] = image
        if name in buffers.sizes:
            buffers.sizes[name][place] = height, width

    def _checked(self, number: int, row: int) -> _Mapped:
        """A shard in which the checksum of `row` holds; CorruptSampleError where it does not.

        A remote shard that was damaged in the cache is fetched again first, once.
        """
        while not self._holds(mapped := self._map(number), row):
            why = self._renew(number, mapped)
            if why is not None:
                raise CorruptSampleError(corrupt_message(self._shards, row, why))
        return mapped

    def _holds(self, mapped: _Mapped, row: int) -> bool:
        start = int(self._shards.numbers("offset")[row])
        record = mapped.data[start : start + int(self._shards.numbers("bytes")[row])]
        if xxhash.xxh3_64_intdigest(record.data) != int(self._shards.numbers("checksum")[row]):
            return False
        self._unchecked[row] = False
        return True

    def _renew(self, number: int, mapped: _Mapped) -> str | None:
        """None where another copy of the shard is to be looked at, else the remedy."""
        if self._ahead is None or mapped.lease is None:
            return restore_from_copy(self._shards)
        why = self._ahead.renew(number, mapped.lease)
        if why is None:
            with self._opening:
                if self._open.get(number) is mapped:
                    del self._open[number]
        return why

    def _map(self, number: int) -> _Mapped:
        mapped = self._open.get(number)
        if mapped is None and self._ahead is not None:
            return self._map_remote(self._ahead, number)
        if mapped is None:
            with self._opening:
                if number not in self._open:
                    self._open[number] = self._open_shard(number)
                mapped = self._open[number]
        return mapped

    def _map_remote(self, ahead: ShardPrefetcher, number: int) -> _Mapped:
        """Waits for the shard before it takes the lock, so that others open theirs meanwhile."""
        try:
            lease = ahead.lease(number)
        except TransferError:
            if self.quarantine is None:
                raise
            mapped = _Mapped(np.empty(0, np.uint8), {})
        else:
            # The mapping duplicates the open file and with it the lock: the shard stays as long as somebody reads it.
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
                f"Shard {path} cannot be opened ({error}). Its manifest promises {entry.samples} samples; restore "
                "it from a copy."
            ) from None
        if len(data) != entry.bytes and self.quarantine is not None:
            return _Mapped(data, {})  # the checksums tell which samples are there
        if len(data) != entry.bytes:
            raise RuntimeError(
                f"Shard {path} has {len(data)} bytes, its manifest says {entry.bytes}: it was cut off or replaced. "
                f"Run shards/verify.py {self._shards.path}, then restore it from a copy."
            )
        return _Mapped(data, self._pixels(data, entry.samples) if entry.uniform else {})

    def _pixels(self, data: NDArray[np.uint8], records: int) -> dict[str, NDArray[np.uint8]]:
        layout = self._shards.manifest.layout
        assert layout is not None, "the builder marks shards uniform only where it has a layout"
        table = data[: records * layout.record_bytes].reshape(records, layout.record_bytes)
        pixels = {}
        for name in self._groups:
            span, group = layout.members[name], self._shards.groups[name]
            assert group.shape is not None, "a layout has only groups of fixed shape"
            header = len(npy_header(group.dtype, (len(group.bands), *group.shape)))
            pixels[name] = table[:, span.offset + header : span.offset + span.bytes]
        return pixels
