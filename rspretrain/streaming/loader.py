"""Shards to batches: the order says which samples, threads gather them ahead into reused buffers, the device gets them.

The state of the loader is the global step; everything else follows from it (`Loader.batches(first_step)`).
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from rspretrain.batch import Batch
from rspretrain.keyed import sample_seeds
from rspretrain.settings import Settings
from rspretrain.shardset.index import ShardSet
from rspretrain.shardset.remote import RemoteOptions
from rspretrain.shardset.transfer import Patience
from rspretrain.streaming.horizon import Horizon, bytes_at_once
from rspretrain.streaming.order import Order, rank_slice
from rspretrain.streaming.quarantine import Quarantine
from rspretrain.streaming.reader import Buffers, Reader
from rspretrain.world import World, local_size

Ints = NDArray[np.int64]


def _as_text(shards: object) -> object:
    return str(shards) if isinstance(shards, Path) else shards


class DataSettings(Settings):
    """Which samples a run sees, and how they come."""

    shards: Annotated[str, BeforeValidator(_as_text)] = Field(
        description="folder of the shard set, or its URL (https://, s3://, gs:// or any other of fsspec)"
    )
    split: str | None = Field(None, description="one of the archive's own splits; none: every sample")
    filter: str | None = Field(None, description="samples to keep: \"country == 'Finland' and season == 'summer'\"")
    streams: int = Field(1, ge=1, description="canonical streams S; a multiple of the nodes gives each its own shards")
    window: int = Field(16, ge=1, description="shards whose samples are shuffled among each other")
    threads: int = Field(2, ge=1, description="threads that gather batches, in every rank")
    prefetch: int = Field(4, ge=1, description="batches gathered ahead, in every rank")
    verify: bool = Field(True, description="check every sample's checksum when a run first touches it")
    on_corrupt: Literal["stop", "quarantine"] = Field(
        "stop", description="a damaged sample ends the run, or is left out by name and replaced by another"
    )
    quarantine_limit: float = Field(0.01, ge=0, le=1, description="share of damaged samples that ends the run anyway")
    cache_dir: Path | None = Field(
        None, description="where shards behind a URL are kept; none: $XDG_CACHE_HOME/rspretrain or ~/.cache/rspretrain"
    )
    cache_gb: float = Field(100.0, gt=0, description="GB of that folder, for all ranks of a node together")
    fetches: int = Field(8, ge=1, description="shards that a node fetches at the same time")
    fetch_timeout_s: float = Field(60.0, gt=0, description="seconds without a byte, after which a fetch is tried again")
    fetch_retries: int = Field(8, ge=0, description="further attempts before a shard counts as lost")
    ledger: bool = Field(False, description="write the keys of every global batch to ledger.jsonl")

    @model_validator(mode="after")
    def _quarantine_needs_checksums(self) -> Self:
        if self.on_corrupt == "quarantine" and not self.verify:
            raise ValueError(
                "on_corrupt is 'quarantine' and verify is off: only checksums find damaged samples. Set data.verify."
            )
        return self

    def remote_options(self) -> RemoteOptions:
        """How shards behind a URL are fetched and kept."""
        patience = Patience(self.fetch_timeout_s, self.fetch_retries)
        return RemoteOptions(self.cache_dir, round(self.cache_gb * 1e9), patience)


@dataclass(frozen=True)
class _Work:
    """One batch to gather."""

    rows: Ints
    seeds: Ints
    replaced: int = 0  # rows of a gathered batch that stand in for damaged ones


@dataclass
class _Slot:
    """Reused memory of one batch; `copied` is the event after which a GPU no longer reads from it."""

    tensors: dict[str, torch.Tensor]
    sizes: dict[str, torch.Tensor]
    buffers: Buffers
    copied: torch.cuda.Event | None = field(default=None)


class _Pipeline:
    """Gathers a sequence of batches in threads, a few ahead, and yields them in order."""

    def __init__(self, reader: Reader, batch_size: int, *, threads: int, prefetch: int, device: torch.device) -> None:
        self._reader, self._threads, self._device = reader, threads, device
        self._ahead = prefetch
        self._slots = [_new_slot(reader, batch_size, device) for _ in range(prefetch + 1)]
        self.wait_s = 0.0
        self.num_replaced = 0

    def run(self, work: Iterator[_Work], shards: Callable[[int, int], list[int]] | None = None) -> Iterator[Batch]:
        """A batch's tensors are valid until the next one is asked for (on a GPU: for good, they are copies).

        `shards(first, last)` says what of a remote set the items first..last of `work` need, and what comes after that.
        """
        free: SimpleQueue[_Slot] = SimpleQueue()
        for slot in self._slots:
            free.put(slot)
        pending: deque[Future[tuple[_Work, _Slot]]] = deque()
        delivered = 0
        with self._reader.fetching(), ThreadPoolExecutor(self._threads, thread_name_prefix="gather") as pool:
            try:
                while True:
                    if shards is not None:
                        self._reader.expect(shards(delivered, delivered + self._ahead - 1))
                    while len(pending) < self._ahead and (item := next(work, None)) is not None:
                        pending.append(pool.submit(self._gather, item, free.get()))
                    if not pending:
                        return
                    started = time.perf_counter()
                    item, slot = pending.popleft().result()
                    self.wait_s += time.perf_counter() - started
                    yield self._deliver(item, slot)
                    free.put(slot)
                    delivered += 1
            finally:
                self._reader.stop()
                pool.shutdown(wait=True, cancel_futures=True)

    def _gather(self, item: _Work, slot: _Slot) -> tuple[_Work, _Slot]:
        if slot.copied is not None:
            slot.copied.synchronize()
        rows = self._reader.gather(item.rows, slot.buffers)
        return _Work(rows, item.seeds, int(np.count_nonzero(rows != item.rows))), slot

    def _deliver(self, item: _Work, slot: _Slot) -> Batch:
        self.num_replaced += item.replaced
        count = len(item.rows)
        images = {name: tensor[:count] for name, tensor in slot.tensors.items()}
        sizes = {name: tensor[:count] for name, tensor in slot.sizes.items()}
        batch = Batch(images, sizes, torch.from_numpy(item.seeds), item.rows).to(self._device)
        if self._device.type == "cuda":
            slot.copied = torch.cuda.Event()
            slot.copied.record()
        return batch


def _new_slot(reader: Reader, batch_size: int, device: torch.device) -> _Slot:
    pin = device.type == "cuda"
    tensors, sizes = {}, {}
    for name, (shape, dtype) in reader.shapes().items():
        torch_dtype = torch.from_numpy(np.empty(0, dtype)).dtype
        tensors[name] = torch.zeros((batch_size, *shape), dtype=torch_dtype, pin_memory=pin)
        if reader.varies(name):
            sizes[name] = torch.zeros((batch_size, 2), dtype=torch.int64, pin_memory=pin)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return _Slot(tensors, sizes, Buffers(arrays, {name: tensor.numpy() for name, tensor in sizes.items()}))


class Loader:
    """The endless stream of one rank's batches, a pure function of (shard set, settings, seed, global batch, step)."""

    def __init__(
        self,
        shards: ShardSet,
        settings: DataSettings,
        groups: Sequence[str],
        *,
        global_batch: int,
        seed: int,
        world: World,
    ) -> None:
        self._shards, self._settings, self._seed, self._world = shards, settings, seed, world
        self._global_batch = global_batch
        self._slice = rank_slice(global_batch, world.rank, world.size)
        self._rows = shards.select(settings.split, settings.filter)  # sorted by shard: rows of the index are
        sizes = np.bincount(shards.numbers("shard")[self._rows], minlength=len(shards.manifest.shards))
        self._order = Order(sizes.astype(np.int64), seed=seed, streams=settings.streams, window=settings.window)
        self.num_samples = len(self._order)
        self.steps_per_epoch, self.dropped = divmod(self.num_samples, global_batch)
        if not self.steps_per_epoch:
            raise ValueError(
                f"{shards.path} has {self.num_samples} samples in split {settings.split!r} with the filter "
                f"{settings.filter!r}, fewer than one global "
                f"batch of {global_batch}. Lower train.global_batch."
            )
        self.quarantine = (
            Quarantine(shards, self._rows, settings.quarantine_limit) if settings.on_corrupt == "quarantine" else None
        )
        if shards.remote:
            shards.remote.check_room(self.bytes_at_once())
        fetches = max(1, settings.fetches // local_size())
        self._pipeline = _Pipeline(
            Reader(shards, groups, verify=settings.verify, quarantine=self.quarantine, fetches=fetches),
            global_batch // world.size,
            threads=settings.threads,
            prefetch=settings.prefetch,
            device=world.device,
        )

    @property
    def wait_s(self) -> float:
        """Seconds that the consumer has waited for data since the start."""
        return self._pipeline.wait_s

    @property
    def num_replaced(self) -> int:
        """How many samples of the batches so far stood in for damaged ones."""
        return self._pipeline.num_replaced

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """This rank's batches from a global step on, over all epochs; the last, short batch of an epoch is dropped."""
        if not self._shards.remote:
            return self._pipeline.run(self._work(first_step))
        horizon = Horizon(self._order, self._global_batch, self._slice)
        return self._pipeline.run(
            self._work(first_step), lambda first, last: horizon.shards(first_step + first, first_step + last)
        )

    def _work(self, step: int) -> Iterator[_Work]:
        while True:
            epoch, positions = self.positions(step)
            mine = positions[self._slice]
            yield _Work(self._rows[self._order.samples(epoch, mine)], sample_seeds(self._seed, epoch, mine))
            step += 1

    def positions(self, step: int) -> tuple[int, Ints]:
        """The epoch of a global step, and the positions [G] of its whole global batch in it."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return epoch, self._order.batch_positions(batch, self._global_batch)

    def global_keys(self, step: int) -> list[str]:
        """The keys of the whole global batch of a step, in order, without reading a pixel."""
        epoch, positions = self.positions(step)
        return self._shards.keys(self._rows[self._order.samples(epoch, positions)])

    def bytes_at_once(self) -> int:
        """An upper bound of what this node must hold of the shards of a remote set at once."""
        shard_bytes = np.array([entry.bytes for entry in self._shards.manifest.shards], dtype=np.int64)
        node = self._world.rank - self._world.local_rank
        ranks = range(node, min(node + local_size(), self._world.size))
        return bytes_at_once(
            self._order, shard_bytes, self._global_batch, self._settings.prefetch, ranks, self._world.size
        )

    @property
    def shards_needed(self) -> Ints:
        """The numbers of the shards that have samples of this run, ascending."""
        return np.flatnonzero(self._order.sizes)

    def plan(self) -> dict[str, int]:
        """Numbers for a person who wants to know before the run starts."""
        record_bytes = int(self._shards.numbers("bytes")[self._rows].sum())
        return {
            "samples": self.num_samples,
            "steps_per_epoch": self.steps_per_epoch,
            "dropped_per_epoch": self.dropped,
            "shards": int(np.count_nonzero(self._order.sizes)),
            "bytes_per_epoch": record_bytes,
            "bytes_per_epoch_and_rank": record_bytes // self._world.size,
        }


def evaluation_batches(
    shards: ShardSet,
    groups: Sequence[str],
    rows: Ints,
    batch_size: int,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """The samples of `rows` once, in that order; the last batch is short, nothing is padded or repeated."""
    pipeline = _Pipeline(
        Reader(shards, groups), batch_size, threads=2, prefetch=2, device=device or torch.device("cpu")
    )
    cuts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    work = (_Work(cut, sample_seeds(0, 0, cut)) for cut in cuts)
    if not shards.remote:
        return pipeline.run(work)
    needs = [np.unique(shards.numbers("shard")[cut]).tolist() for cut in cuts]
    return pipeline.run(work, lambda first, last: list(dict.fromkeys(chain(*needs[first : last + 2]))))
