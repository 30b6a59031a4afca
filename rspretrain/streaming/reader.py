"""Memory-mapped shards to batch buffers: one copy from the page cache, no parsing, no allocation, no pickling.

A uniform shard is seen as one array of records with a fixed stride; everything else goes through the offsets of the
index. The first time a run touches a sample, its bytes are checked against the index (design.md D3).
"""

import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from rspretrain.sensors import Group
from rspretrain.shardset.index import CorruptSampleError, ShardSet, corrupt_message, restore_from_copy
from rspretrain.shardset.leases import Lease
from rspretrain.shardset.record import decode_array, npy_header
from rspretrain.shardset.transfer import TransferError
from rspretrain.streaming.ahead import Ahead
from rspretrain.streaming.quarantine import Quarantine

Array = NDArray[Any]


@dataclass(frozen=True)
class Buffers:
    """Where a batch is gathered: a canvas for every group, and the sizes of images where they differ."""

    images: dict[str, Array]  # group -> [B C H W]
    sizes: dict[str, NDArray[np.int64]]  # group -> [B 2]


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
        self._groups: tuple[Group, ...] = tuple(shards.groups[name] for name in groups)
        self._canvas = {entry.name: entry.max_shape for entry in shards.manifest.groups}
        self._shard_of: Array = shards.numbers("shard")
        self._record_of: Array = shards.numbers("record")
        self._open: dict[int, _Mapped] = {}
        self._opening = threading.Lock()
        self._ahead = Ahead(shards.remote, fetches) if shards.remote else None
        # Threads may check a sample twice, which is harmless; none is ever left out.
        self._unchecked = np.full(len(shards), verify)
        self._quarantine = quarantine
        self._damaged: set[int] = set()
        self._codec = shards.manifest.codec

    def shapes(self) -> dict[str, tuple[tuple[int, int, int], np.dtype[Any]]]:
        """group -> ([C H W] of its canvas, dtype), from which buffers are made."""
        return {
            group.name: ((len(group.bands), *self._canvas[group.name]), np.dtype(group.dtype)) for group in self._groups
        }

    def varies(self, name: str) -> bool:
        """Whether the images of a group differ in size, so that a batch must say each one's."""
        return self._shards.groups[name].shape is None

    def gather(self, rows: NDArray[np.int64], buffers: Buffers) -> NDArray[np.int64]:
        """Copy the samples of `rows` into the first len(rows) places of the buffers; returns the rows that are there.

        They are `rows` unless there is a quarantine. RuntimeError where a shard is missing or has another size than
        its manifest says, CorruptSampleError where a sample's checksum does not hold.
        """
        if self._quarantine is not None:
            rows = self._quarantine.replace(rows, self._is_sound)
        shard_of = self._shard_of[rows]
        by_shard = np.argsort(shard_of, kind="stable")
        cuts = np.flatnonzero(np.diff(shard_of[by_shard])) + 1
        for places in np.split(by_shard, cuts):
            here = rows[places]
            mapped = self._checked(int(shard_of[places[0]]), here)
            self._copy(mapped, places, here, buffers)
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
                self._checked(int(self._shard_of[row]), np.array([row]))
            except CorruptSampleError:
                self._damaged.add(row)
        return row not in self._damaged

    def _copy(self, mapped: _Mapped, places: NDArray[np.intp], rows: NDArray[np.int64], buffers: Buffers) -> None:
        slots, records = places.tolist(), self._record_of[rows].tolist()
        for group in self._groups:
            out = buffers.images[group.name]
            if group.name not in mapped.pixels:
                for place, row in zip(places, rows, strict=True):
                    image = self._image(mapped, group, int(row))
                    _, height, width = image.shape
                    out[place, :, :height, :width] = image  # what lies beyond keeps whatever was there
                    if group.name in buffers.sizes:
                        buffers.sizes[group.name][place] = height, width
                continue
            source = mapped.pixels[group.name]
            flat = out.reshape(len(out), -1).view(np.uint8)
            for place, record in zip(slots, records, strict=True):
                flat[place] = source[record]  # numpy copies a row without the interpreter's lock

    def _image(self, mapped: _Mapped, group: Group, row: int) -> Array:
        """One image [C H W] of any size and codec."""
        start = int(self._shards.numbers(f"offset_{group.name}")[row])
        member = mapped.data[start : start + int(self._shards.numbers(f"bytes_{group.name}")[row])]
        return decode_array(member.data, self._codec)

    def _checked(self, number: int, rows: NDArray[np.int64]) -> _Mapped:
        """A shard in which the checksums of `rows` hold; CorruptSampleError where one does not.

        A remote shard that was damaged in the cache is fetched again first, once.
        """
        while True:
            mapped = self._map(number)
            bad = next((row for row in rows[self._unchecked[rows]].tolist() if not self._holds(mapped, row)), None)
            if bad is None:
                return mapped
            why = self._renew(number, mapped)
            if why is not None:
                raise CorruptSampleError(corrupt_message(self._shards, bad, why))

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

    def _map_remote(self, ahead: Ahead, number: int) -> _Mapped:
        """Waits for the shard before it takes the lock, so that others open theirs meanwhile."""
        try:
            lease = ahead.lease(number)
        except TransferError:
            if self._quarantine is None:
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
            if self._quarantine is not None:
                return _Mapped(np.empty(0, np.uint8), {})
            raise RuntimeError(
                f"Shard {path} cannot be opened ({error}). Its manifest promises {entry.samples} samples; restore "
                "it from a copy."
            ) from None
        if len(data) != entry.bytes and self._quarantine is not None:
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
        for group in self._groups:
            span = layout.members[group.name]
            assert group.shape is not None, "a layout has only groups of fixed shape"
            header = len(npy_header(group.dtype, (len(group.bands), *group.shape)))
            pixels[group.name] = table[:, span.offset + header : span.offset + span.bytes]
        return pixels
