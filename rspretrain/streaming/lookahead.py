"""What a rank needs of remote shard sets soon, and how much of them a node holds at once."""

import numpy as np
from numpy.typing import NDArray

from rspretrain.streaming.batch_plan import BatchPlan, Windows
from rspretrain.streaming.sampler import EpochSampler, rank_slice

Ints = NDArray[np.int64]


class Lookahead:
    """The shards of the windows that one rank's steps touch, and of the windows after them."""

    def __init__(self, batches: BatchPlan, part: slice) -> None:
        self._batches, self._part = batches, part
        self._last: list[tuple[Windows, list[int]]] = [({}, []) for _ in batches.orders]

    def shards(self, first_step: int, last_step: int) -> list[list[int]]:
        """For every source those of steps first..last, then those of one window more in every stream.

        Each once, in order of need.
        """
        found = self._batches.windows(first_step, last_step, self._part)
        for number, (order, windows) in enumerate(zip(self._batches.orders, found, strict=True)):
            if windows != self._last[number][0]:
                self._last[number] = windows, _in_order_of_need(order, windows)
        return [shards for _, shards in self._last]


def _in_order_of_need(order: EpochSampler, windows: Windows) -> list[int]:
    longest = max(high - low for low, high in windows.values())
    found: dict[int, None] = {}
    for ahead in range(longest + 2):
        for stream, (low, high) in windows.items():
            if low + ahead <= high + 1:
                found.update(dict.fromkeys(order.shards_of_window(stream, low + ahead).tolist()))
    return list(found)


def bytes_at_once(
    order: EpochSampler, shard_bytes: Ints, global_batch: int, ahead: int, ranks: range, world: int
) -> int:
    """An upper bound of what the ranks of one node need at once, when each gathers `ahead` batches ahead."""
    total = 0
    per_stream = -(-global_batch // order.streams)  # samples of one step
    for stream in streams_of(order, global_batch, ranks, world):
        sizes = shard_bytes[order.shards_of_stream(stream)]
        in_window = max(1, len(order) // (order.streams * order.num_windows(stream)))
        windows = 2 + -(-(ahead + 1) * per_stream // in_window)  # those in use, and the next one
        total += min(int(sizes.sum()), windows * order.window * int(sizes.max()))
    return min(total, int(shard_bytes[order.sizes > 0].sum()))


def streams_of(order: EpochSampler, global_batch: int, ranks: range, world: int) -> list[int]:
    """The streams that some ranks read."""
    if global_batch % order.streams:  # a rank's part of a batch wanders over the streams
        return list(range(order.streams))
    each = global_batch // order.streams  # a batch is listed stream by stream
    first, last = rank_slice(global_batch, ranks[0], world).start, rank_slice(global_batch, ranks[-1], world).stop
    return list(range(first // each, (last - 1) // each + 1))
