"""The shards of remote sets that a rank reads next, and an upper bound of the cache space that a node needs."""

from rspretrain.arrays import Ints
from rspretrain.streaming.batch_plan import BatchPlan, Windows
from rspretrain.streaming.sampler import EpochSampler, rank_slice


class Lookahead:
    """The shards of the windows that one rank's steps read, and of the windows after them."""

    def __init__(self, plan: BatchPlan, part: slice) -> None:
        self._plan, self._part = plan, part
        self._last: list[tuple[Windows, list[int]]] = [({}, []) for _ in plan.samplers]

    def shards(self, first_step: int, last_step: int) -> list[list[int]]:
        """The shards of each source for steps first..last, then those of one more window per stream.

        Each shard is listed once, in the order in which it is needed.
        """
        windows_by_source = self._plan.windows(first_step, last_step, self._part)
        for number, (sampler, windows) in enumerate(zip(self._plan.samplers, windows_by_source, strict=True)):
            if windows != self._last[number][0]:
                self._last[number] = windows, _in_order_of_need(sampler, windows)
        return [shards for _, shards in self._last]


def _in_order_of_need(sampler: EpochSampler, windows: Windows) -> list[int]:
    longest = max(high - low for low, high in windows.values())
    ordered: dict[int, None] = {}
    for offset in range(longest + 2):
        for stream, (low, high) in windows.items():
            if low + offset <= high + 1:
                ordered.update(dict.fromkeys(sampler.shards_of_window(stream, low + offset).tolist()))
    return list(ordered)


def cache_bytes_needed(
    sampler: EpochSampler, shard_bytes: Ints, global_batch: int, prefetch: int, ranks: range, world: int
) -> int:
    """An upper bound of the bytes that the ranks of one node need in the cache, with `prefetch` batches in advance."""
    total = 0
    per_stream = -(-global_batch // sampler.streams)  # samples per step
    for stream in streams_of_ranks(sampler, global_batch, ranks, world):
        sizes = shard_bytes[sampler.shards_of_stream(stream)]
        in_window = max(1, len(sampler) // (sampler.streams * sampler.num_windows(stream)))
        windows = 2 + -(-(prefetch + 1) * per_stream // in_window)  # those in use, and the next one
        total += min(int(sizes.sum()), windows * sampler.window * int(sizes.max()))
    return min(total, int(shard_bytes[sampler.sizes > 0].sum()))


def streams_of_ranks(sampler: EpochSampler, global_batch: int, ranks: range, world: int) -> list[int]:
    """The streams that consecutive ranks read."""
    if global_batch % sampler.streams:  # the streams of a rank's slice change from batch to batch
        return list(range(sampler.streams))
    each = global_batch // sampler.streams  # a batch is ordered by stream
    first, last = rank_slice(global_batch, ranks[0], world).start, rank_slice(global_batch, ranks[-1], world).stop
    return list(range(first // each, (last - 1) // each + 1))
