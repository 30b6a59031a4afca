"""A weighted mixture of shard sets in one sequence: exactly once per source epoch, elastic, resumed by one integer.

    blocks      every stream consists of blocks of BLOCK samples. Exactly round(weight * BLOCK) samples of each block
                come from a source, in an order that is shuffled separately for every block.
    samples     each stream follows the source's own order (sampler.py), epoch after epoch: the k-th sample that a
                stream takes from a source is sample k % n of epoch k // n, where n is the number of samples that the
                stream has of that source

Every sample of a source therefore comes once before any comes twice, for any weights, and a node opens only the shards
of its streams. Seeking costs one permutation of a block. The length of a mixture's epoch, for schedules and reports, is
the number of samples of all sources together.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import final

import numpy as np

from rspretrain.arrays import Ints
from rspretrain.rng import permutation
from rspretrain.streaming.batch_plan import BatchPlan, SampleIndices, Windows
from rspretrain.streaming.sampler import EpochSampler, positions_by_stream

BLOCK = 10_000  # samples; weights are exact to 0.01 %
_BLOCK_ORDER = 4  # purpose of a permutation, see sampler.py


@final
class Mixture(BatchPlan):
    """`weights` are relative; every source needs at least one sample per block. All samplers have the same streams."""

    def __init__(
        self, samplers: Sequence[EpochSampler], weights: Sequence[float], global_batch: int, seed: int
    ) -> None:
        self.samplers = tuple(samplers)
        self._global_batch, self._seed, self._streams = global_batch, seed, samplers[0].streams
        self.block_counts = samples_per_block(weights)
        self._source = np.repeat(np.arange(len(samplers)), self.block_counts)  # [BLOCK] before shuffling
        self.steps_per_epoch, self.dropped = sum(len(sampler) for sampler in samplers) // global_batch, 0
        self._block = lru_cache(maxsize=2 * self._streams)(self._shuffle_block)

    def indices(self, step: int, part: slice = slice(None)) -> SampleIndices:
        """See BatchPlan."""
        stream_of, index_of = self._streams_and_indices(step, part)
        source, epoch, position = (np.empty_like(stream_of) for _ in range(3))
        for stream in np.unique(stream_of).tolist():
            selected = stream_of == stream
            source[selected], taken = self._look_up(stream, index_of[selected])
            length = self._lengths(stream)[source[selected]]
            epoch[selected] = taken // length
            position[selected] = taken % length * self._streams + stream
        return SampleIndices(source, epoch, position)

    def windows(self, first_step: int, last_step: int, part: slice) -> list[Windows]:
        """See BatchPlan."""
        found: list[Windows] = [{} for _ in self.samplers]
        first_streams, first = self._streams_and_indices(first_step, part)
        last_streams, last = self._streams_and_indices(last_step, part)
        for stream in np.unique(first_streams).tolist():
            low = self._taken(stream, int(first[first_streams == stream].min()))
            high = self._taken(stream, int(last[last_streams == stream].max()))
            for number in range(len(self.samplers)):
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

    def _streams_and_indices(self, step: int, part: slice) -> tuple[Ints, Ints]:
        """[B] stream of each sample, and [B] its index in that stream; ordered by stream, as in EpochSampler."""
        positions = positions_by_stream(step * self._global_batch, self._global_batch, self._streams, part)
        return positions % self._streams, positions // self._streams

    def _look_up(self, stream: int, index: Ints) -> tuple[Ints, Ints]:
        """[B] source of the samples at `index` [B] of a stream, and [B] how many of that source precede each."""
        source, taken = np.empty_like(index), np.empty_like(index)
        for block in np.unique(index // BLOCK).tolist():
            selected = index // BLOCK == block
            sources, ordinals = self._block(stream, block)
            source[selected] = sources[index[selected] % BLOCK]
            taken[selected] = block * self.block_counts[source[selected]] + ordinals[index[selected] % BLOCK]
        return source, taken

    def _taken(self, stream: int, index: int) -> Ints:
        """[sources] the number of samples of each source among the first `index` samples of a stream."""
        block, offset = divmod(index, BLOCK)
        sources, _ = self._block(stream, block)
        taken: Ints = block * self.block_counts + np.bincount(sources[:offset], minlength=len(self.block_counts))
        return taken

    def _shuffle_block(self, stream: int, block: int) -> tuple[Ints, Ints]:
        """[BLOCK] source of every sample, and [BLOCK] how many of the same source precede it in the block."""
        sources = self._source[permutation(BLOCK, self._seed, _BLOCK_ORDER, stream, block)]
        ordinals = np.empty(BLOCK, dtype=np.int64)
        for number, count in enumerate(self.block_counts.tolist()):
            ordinals[sources == number] = np.arange(count)
        return sources, ordinals

    def _lengths(self, stream: int) -> Ints:
        """[sources] the number of samples that a stream has of each source, per epoch of that source."""
        totals = np.array([len(sampler) for sampler in self.samplers], dtype=np.int64)
        lengths: Ints = totals // self._streams + (stream < totals % self._streams)
        return lengths

    def _window(self, number: int, stream: int, taken: int) -> int:
        length = int(self._lengths(stream)[number])
        position = np.array([taken % length * self._streams + stream])
        windows = self.samplers[number].windows(taken // length, position)
        return windows[stream][0]


def samples_per_block(weights: Sequence[float]) -> Ints:
    """[sources] integers in proportion to the weights that sum to BLOCK (largest remainders). ValueError for a 0."""
    exact = np.asarray(weights, dtype=np.float64) / np.sum(weights) * BLOCK
    counts: Ints = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: BLOCK - int(counts.sum())]] += 1
    if np.any(counts == 0):
        raise ValueError(
            f"data.sources: got the weights {list(weights)}, expected at least one sample in {BLOCK:,} from every "
            f"source; source number {int(np.argmin(counts))} gets none. Raise its weight, or remove it."
        )
    return counts
