"""Threads that gather batches in advance into reused buffers. Batches are yielded in order."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np
import torch

from rspretrain.arrays import Ints
from rspretrain.batch import Batch
from rspretrain.streaming.reader import Buffers, JointReader
from rspretrain.streaming.sources import Sources

ShardsNeeded = Callable[[int, int], list[list[int]]]  # (first, last) work item -> shards of each source, in order


@dataclass(frozen=True)
class WorkItem:
    """One batch to gather."""

    rows: Ints
    seeds: Ints
    replaced: int = 0  # number of rows that replaced damaged ones, once gathered


@dataclass
class _Slot:
    """Reused memory of one batch. After the event `copied`, the GPU no longer reads from it."""

    tensors: dict[str, torch.Tensor]
    sizes: dict[str, torch.Tensor]
    buffers: Buffers
    copied: torch.cuda.Event | None = field(default=None)


class Pipeline:
    """Gathers a sequence of batches with `threads` threads, `prefetch` batches in advance, and moves them to `device`.

    `wait_s` counts the seconds that the consumer waited, `cpu_s` the CPU seconds of the threads.
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
        self._prefetch = prefetch
        self._slots = [_new_slot(reader.sources, groups, batch_size, device) for _ in range(prefetch + 1)]
        self.wait_s = self.cpu_s = 0.0
        self.num_replaced = 0

    def run(self, work: Iterator[WorkItem], shards_needed: ShardsNeeded | None = None) -> Iterator[Batch]:
        """The gathered batches. On a CPU, the tensors of a batch are valid until the next batch is requested.

        On a GPU they are copies and stay valid. `shards_needed` returns the remote shards that some items of `work`
        need, followed by those needed after them.
        """
        free: SimpleQueue[_Slot] = SimpleQueue()
        for slot in self._slots:
            free.put(slot)
        pending: deque[Future[tuple[WorkItem, _Slot, float]]] = deque()
        delivered = 0
        with self._reader.prefetching(), ThreadPoolExecutor(self._threads, thread_name_prefix="gather") as pool:
            try:
                while True:
                    if shards_needed is not None:
                        self._reader.prefetch(shards_needed(delivered, delivered + self._prefetch - 1))
                    while len(pending) < self._prefetch and (item := next(work, None)) is not None:
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

    def _gather(self, item: WorkItem, slot: _Slot) -> tuple[WorkItem, _Slot, float]:
        started = time.thread_time()
        if slot.copied is not None:
            slot.copied.synchronize()
        rows = self._reader.gather(item.rows, slot.buffers)
        replaced = int(np.count_nonzero(rows != item.rows))
        return WorkItem(rows, item.seeds, replaced), slot, time.thread_time() - started

    def _deliver(self, item: WorkItem, slot: _Slot) -> Batch:
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
