"""What a rank needs of a remote shard set soon, and how much of it a node holds at once."""

import numpy as np
from numpy.typing import NDArray

from rspretrain.streaming.order import Order, rank_slice

Ints = NDArray[np.int64]


class Horizon:
    """The shards of the windows that one rank's steps touch, and of the windows after them."""

    def __init__(self, order: Order, global_batch: int, part: slice) -> None:
        self._order, self._global_batch, self._part = order, global_batch, part
        self._steps_per_epoch = len(order) // global_batch
        self._last: tuple[dict[int, tuple[int, int]], list[int]] = ({}, [])

    def shards(self, first_step: int, last_step: int) -> list[int]:
        """Those of steps first..last, then those of one window more in every stream; each once, in order of need."""
        windows = self._windows(first_step)
        for stream, (low, high) in self._windows(last_step).items():
            windows[stream] = min(low, windows.get(stream, (low, high))[0]), high
        if windows != self._last[0]:
            self._last = windows, self._list(windows)
        return self._last[1]

    def _windows(self, step: int) -> dict[int, tuple[int, int]]:
        epoch, batch = divmod(step, self._steps_per_epoch)
        return self._order.windows(epoch, self._order.batch_positions(batch, self._global_batch)[self._part])

    def _list(self, windows: dict[int, tuple[int, int]]) -> list[int]:
        longest = max(high - low for low, high in windows.values())
        found: dict[int, None] = {}
        for ahead in range(longest + 2):
            for stream, (low, high) in windows.items():
                if low + ahead <= high + 1:
                    found.update(dict.fromkeys(self._order.shards_of_window(stream, low + ahead).tolist()))
        return list(found)


def bytes_at_once(order: Order, shard_bytes: Ints, global_batch: int, ahead: int, ranks: range, world: int) -> int:
    """An upper bound of what the ranks of one node need at once, when each gathers `ahead` batches ahead."""
    total = 0
    per_stream = -(-global_batch // order.streams)  # samples of one step
    for stream in streams_of(order, global_batch, ranks, world):
        sizes = shard_bytes[order.shards_of_stream(stream)]
        in_window = max(1, len(order) // (order.streams * order.num_windows(stream)))
        windows = 2 + -(-(ahead + 1) * per_stream // in_window)  # those in use, and the next one
        total += min(int(sizes.sum()), windows * order.window * int(sizes.max()))
    return min(total, int(shard_bytes[order.sizes > 0].sum()))


def streams_of(order: Order, global_batch: int, ranks: range, world: int) -> list[int]:
    """The streams that some ranks read."""
    if global_batch % order.streams:  # a rank's part of a batch wanders over the streams
        return list(range(order.streams))
    positions = order.batch_positions(0, global_batch)
    first, last = rank_slice(global_batch, ranks[0], world).start, rank_slice(global_batch, ranks[-1], world).stop
    return [int(stream) for stream in np.unique(positions[first:last] % order.streams)]
