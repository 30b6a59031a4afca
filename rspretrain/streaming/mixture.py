"""Several shard sets in one sequence, with weights: still exactly once, elastic, and one integer to resume.

    deal      every stream is dealt in blocks of BLOCK samples; of each block exactly round(weight * BLOCK) come from a
              source, in an order drawn anew for every block
    draw      a source's own order (order.py) is followed in every stream, epoch after epoch: the k-th sample that a
              stream takes from a source is number k % n of its epoch k // n, where n is what the stream has of it

So every sample of a source comes once before any comes twice, whatever the weights, and a node still opens only the
shards of its streams. Seeking costs one permutation of a block. An epoch of a mixture, for schedules and reports, is as
many samples as its sources have together.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import final

import numpy as np

from rspretrain.rng import permutation
from rspretrain.streaming.batch_plan import BatchPlan, Ints, Picks, Windows
from rspretrain.streaming.sampler import EpochSampler, listed

BLOCK = 10_000  # weights are exact to a hundredth of a percent
_DEAL = 4  # a purpose of permutations, beside those of order.py


@final
class Mixture(BatchPlan):
    """`weights` are relative; every source needs at least one sample in a block. All orders have the same streams."""

    def __init__(self, orders: Sequence[EpochSampler], weights: Sequence[float], global_batch: int, seed: int) -> None:
        self.orders = tuple(orders)
        self._global_batch, self._seed, self._streams = global_batch, seed, orders[0].streams
        self.shares = share_out(weights)
        self._source = np.repeat(np.arange(len(orders)), self.shares)  # [BLOCK] before it is shuffled
        self.steps_per_epoch, self.dropped = sum(len(order) for order in orders) // global_batch, 0
        self._block = lru_cache(maxsize=2 * self._streams)(self._deal_block)

    def picks(self, step: int, part: slice = slice(None)) -> Picks:
        """See BatchPlan."""
        stream_of, index_of = self._elements(step, part)
        source, epoch, position = (np.empty_like(stream_of) for _ in range(3))
        for stream in np.unique(stream_of).tolist():
            here = stream_of == stream
            source[here], taken = self._look_up(stream, index_of[here])
            length = self._lengths(stream)[source[here]]
            epoch[here] = taken // length
            position[here] = taken % length * self._streams + stream
        return Picks(source, epoch, position)

    def windows(self, first_step: int, last_step: int, part: slice) -> list[Windows]:
        """See BatchPlan."""
        found: list[Windows] = [{} for _ in self.orders]
        (first_streams, first), (last_streams, last) = (self._elements(s, part) for s in (first_step, last_step))
        for stream in np.unique(first_streams).tolist():
            low = self._taken(stream, int(first[first_streams == stream].min()))
            high = self._taken(stream, int(last[last_streams == stream].max()))
            for number in range(len(self.orders)):
                found[number][stream] = (
                    self._window(number, stream, int(low[number])), self._window(number, stream, int(high[number]))
                )  # fmt: skip
        return found

    def counts(self, step: int) -> Ints:
        """See BatchPlan."""
        each, more = divmod(step * self._global_batch, self._streams)
        taken = [self._taken(stream, each + (stream < more)) for stream in range(self._streams)]
        counts: Ints = np.sum(taken, axis=0, dtype=np.int64)
        return counts

    def _elements(self, step: int, part: slice) -> tuple[Ints, Ints]:
        """[B] streams and [B] how many samples their streams gave before, stream by stream as in EpochSampler."""
        positions = listed(step * self._global_batch, self._global_batch, self._streams, part)
        return positions % self._streams, positions // self._streams

    def _look_up(self, stream: int, index: Ints) -> tuple[Ints, Ints]:
        """[B] source, and [B] how many samples the stream took from that source before, of elements [B] of a stream."""
        source, taken = np.empty_like(index), np.empty_like(index)
        for block in np.unique(index // BLOCK).tolist():
            here = index // BLOCK == block
            sources, ordinals = self._block(stream, block)
            source[here] = sources[index[here] % BLOCK]
            taken[here] = block * self.shares[source[here]] + ordinals[index[here] % BLOCK]
        return source, taken

    def _taken(self, stream: int, index: int) -> Ints:
        """[sources] how many samples of each are among the first `index` of a stream."""
        block, offset = divmod(index, BLOCK)
        sources, _ = self._block(stream, block)
        taken: Ints = block * self.shares + np.bincount(sources[:offset], minlength=len(self.shares))
        return taken

    def _deal_block(self, stream: int, block: int) -> tuple[Ints, Ints]:
        """[BLOCK] source of every element, and [BLOCK] how many of the same source are before it in the block."""
        sources = self._source[permutation(BLOCK, self._seed, _DEAL, stream, block)]
        ordinals = np.empty(BLOCK, dtype=np.int64)
        for number, share in enumerate(self.shares.tolist()):
            ordinals[sources == number] = np.arange(share)
        return sources, ordinals

    def _lengths(self, stream: int) -> Ints:
        """[sources] samples that a stream has of each, in every epoch of it."""
        totals = np.array([len(order) for order in self.orders], dtype=np.int64)
        lengths: Ints = totals // self._streams + (stream < totals % self._streams)
        return lengths

    def _window(self, number: int, stream: int, taken: int) -> int:
        length = int(self._lengths(stream)[number])
        position = np.array([taken % length * self._streams + stream])
        windows = self.orders[number].windows(taken // length, position)
        return windows[stream][0]


def share_out(weights: Sequence[float]) -> Ints:
    """[sources] whole numbers in proportion to the weights, BLOCK together (largest remainders). ValueError for a 0."""
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * BLOCK
    shares: Ints = np.floor(exact).astype(np.int64)
    shares[np.argsort(shares - exact, kind="stable")[: BLOCK - int(shares.sum())]] += 1
    if np.any(shares == 0):
        raise ValueError(
            f"data.sources: the weights {list(weights)} give source number {int(np.argmin(shares))} less than one "
            f"sample in {BLOCK:,}. Raise its weight, or leave it out."
        )
    return shares
