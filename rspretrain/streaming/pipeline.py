"""Threads that gather batches ahead into reused buffers, and hand them over in order."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray

from rspretrain.batch import Batch
from rspretrain.streaming.joint_reader import JointReader
from rspretrain.streaming.reader import Buffers
from rspretrain.streaming.sources import Sources

Ints = NDArray[np.int64]
Needs = Callable[[int, int], list[list[int]]]  # (first, last) of the items of work -> shards of every source, in order


@dataclass(frozen=True)
class Work:
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


class Pipeline:
    """Gathers a sequence of batches, `prefetch` ahead, with so many threads; `device` is where batches go.

    Counts what it costs: `wait_s` are the seconds that the consumer waited, `cpu_s` those that threads computed.
    """

    def __init__(
        self,
        reader: JointReader,
        groups: list[str],
        batch_size: int,
        *,
        threads: int,
        prefetch: int,
        device: torch.device,
    ) -> None:
        self._reader, self._threads, self._device = reader, threads, device
        self._ahead = prefetch
        self._slots = [_new_slot(reader.sources, groups, batch_size, device) for _ in range(prefetch + 1)]
        self.wait_s = self.cpu_s = 0.0
        self.num_replaced = 0

    def run(self, work: Iterator[Work], needs: Needs | None = None) -> Iterator[Batch]:
        """A batch's tensors are valid until the next one is asked for (on a GPU: for good, they are copies).

        `needs` says what of remote sets some items of `work` need, and what comes after that.
        """
        free: SimpleQueue[_Slot] = SimpleQueue()
        for slot in self._slots:
            free.put(slot)
        pending: deque[Future[tuple[Work, _Slot, float]]] = deque()
        delivered = 0
        with self._reader.fetching(), ThreadPoolExecutor(self._threads, thread_name_prefix="gather") as pool:
            try:
                while True:
                    if needs is not None:
                        self._reader.expect(needs(delivered, delivered + self._ahead - 1))
                    while len(pending) < self._ahead and (item := next(work, None)) is not None:
                        pending.append(pool.submit(self._gather, item, free.get()))
                    if not pending:
                        return
                    started = time.perf_counter()
                    item, slot, cpu_s = pending.popleft().result()
                    self.wait_s += time.perf_counter() - started
                    self.cpu_s += cpu_s
                    yield self._deliver(item, slot)
                    free.put(slot)
                    delivered += 1
            finally:
                self._reader.stop()
                pool.shutdown(wait=True, cancel_futures=True)

    def _gather(self, item: Work, slot: _Slot) -> tuple[Work, _Slot, float]:
        started = time.thread_time()
        if slot.copied is not None:
            slot.copied.synchronize()
        rows = self._reader.gather(item.rows, slot.buffers)
        replaced = int(np.count_nonzero(rows != item.rows))
        return Work(rows, item.seeds, replaced), slot, time.thread_time() - started

    def _deliver(self, item: Work, slot: _Slot) -> Batch:
        self.num_replaced += item.replaced
        count = len(item.rows)
        images = {name: tensor[:count] for name, tensor in slot.tensors.items()}
        sizes = {name: tensor[:count] for name, tensor in slot.sizes.items()}
        batch = Batch(images, sizes, torch.from_numpy(item.seeds), item.rows).to(self._device)
        if self._device.type == "cuda":
            slot.copied = torch.cuda.Event()
            slot.copied.record()
        return batch


def _new_slot(sources: Sources, groups: list[str], batch_size: int, device: torch.device) -> _Slot:
    pin = device.type == "cuda"
    tensors, sizes = {}, {}
    for name in groups:
        group = sources.groups[name]
        dtype = torch.from_numpy(np.empty(0, group.dtype)).dtype
        shape = (batch_size, len(group.bands), *sources.canvas[name])
        tensors[name] = torch.zeros(shape, dtype=dtype, pin_memory=pin)
        if group.shape is None:
            sizes[name] = torch.zeros((batch_size, 2), dtype=torch.int64, pin_memory=pin)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    return _Slot(tensors, sizes, Buffers(arrays, {name: tensor.numpy() for name, tensor in sizes.items()}))
