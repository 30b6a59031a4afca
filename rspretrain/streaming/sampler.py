"""The order of samples, a pure function of (sizes, seed, epoch, streams, window).

The state of the order is therefore one integer, and every number of ranks gets the same global batches.

    split       the shards are shuffled once per run, concatenated and cut into S equal streams. A stream keeps its
                part of the archive in every epoch, so a node opens only the shards of its own streams.
    shuffle     in every epoch, a stream visits its shards in a new order and shuffles the samples within each
                window of `window` shards
    interleave  position p of an epoch is sample p // S of stream p % S
    batch       global batch b consists of positions [b*G, (b+1)*G), ordered by stream; a rank takes a contiguous slice

The order does not depend on ranks, workers or accumulation; they determine only which process reads which slice. It is
integer arithmetic on keyed hashes, so it is equal on all machines and with all library versions. Seeking to a position
costs one permutation of a window, not a pass over all earlier samples.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rspretrain.arrays import Ints
from rspretrain.rng import permutation

# Purposes of permutations, mixed into their keys. mixture.py uses 4, loader.py 5.
_SPLIT, _EPOCH, _WINDOW = 1, 2, 3


@dataclass(frozen=True)
class _Stream:
    """One stream's part of the archive, as spans of consecutive samples, one per shard (or part of a shard)."""

    first: Ints  # [spans] number of the first sample; samples are numbered shard by shard
    sizes: Ints  # [spans]


@dataclass(frozen=True)
class _StreamEpoch:
    """One stream in one epoch: its spans in shuffled order, and the start of every window."""

    first: Ints  # [spans]
    sizes: Ints  # [spans]
    starts: Ints  # [windows + 1] index in the stream of each window's first sample, then the stream's length


class EpochSampler:
    """The global order of samples in every epoch.

    Samples are numbered 0..N-1 shard by shard (the loader maps them to rows of the index). `sizes` [shards] is the
    number of selected samples per shard, `streams` the number of streams S, `window` the number of shards that are
    shuffled together. ValueError if there are fewer shards than streams, or if `window` is below 1.
    """

    def __init__(self, sizes: Ints, *, seed: int, streams: int, window: int) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.seed, self.streams, self.window = seed, streams, window
        shards = int(np.count_nonzero(self.sizes))
        if not 1 <= streams <= shards:
            raise ValueError(
                f"data.streams: got {streams} for {shards} shards with samples, expected at least one shard per "
                f"stream. Set data.streams to 1..{shards}, or build smaller shards (`rspretrain build "
                "--samples-per-shard`)."
            )
        if window < 1:
            raise ValueError(f"data.window: got {window}, expected at least 1 shard. Set data.window=16 or more.")
        self._total = int(self.sizes.sum())
        self._stream = lru_cache(maxsize=None)(self._cut_stream)
        self._stream_epoch = lru_cache(maxsize=2 * streams)(self._shuffle_stream)
        self._samples = lru_cache(maxsize=2 * streams)(self._shuffle_window)

    def __len__(self) -> int:
        """The number of samples per epoch."""
        return self._total

    def samples(self, epoch: int, positions: Ints) -> Ints:
        """[B] the samples at `positions` [B] of an epoch."""
        out = np.empty(len(positions), dtype=np.int64)
        stream_of, index_of = positions % self.streams, positions // self.streams
        for stream in np.unique(stream_of):
            selected = stream_of == stream
            out[selected] = self._samples_of_stream(epoch, int(stream), index_of[selected])
        return out

    def batch_positions(self, batch: int, global_batch: int, part: slice = slice(None)) -> Ints:
        """The positions in `part` of a global batch, ordered by stream; fewer in the last batch of an epoch."""
        first = batch * global_batch
        return positions_by_stream(first, min(global_batch, self._total - first), self.streams, part)

    def shards_of_stream(self, stream: int) -> Ints:
        """The shards that a stream reads, in any epoch."""
        cut = self._stream(stream)
        ends = np.cumsum(self.sizes)
        return np.unique(np.searchsorted(ends, cut.first, side="right"))

    def windows(self, epoch: int, positions: Ints) -> dict[int, tuple[int, int]]:
        """stream -> the first and last window that contains any of `positions`; windows are counted across epochs.

        Computes no permutation of samples.
        """
        found = {}
        stream_of, index_of = positions % self.streams, positions // self.streams
        for stream in np.unique(stream_of).tolist():
            index = index_of[stream_of == stream]
            starts = self._stream_epoch(epoch, stream).starts
            first, last = np.searchsorted(starts, (index.min(), index.max()), side="right") - 1
            before = epoch * self.num_windows(stream)
            found[stream] = before + int(first), before + int(last)
        return found

    def num_windows(self, stream: int) -> int:
        """The number of windows of a stream per epoch."""
        return -(-len(self._stream(stream).sizes) // self.window)

    def shards_of_window(self, stream: int, number: int) -> Ints:
        """The shards of a window (counted as in `windows`), in the order of this epoch."""
        epoch, window = divmod(number, self.num_windows(stream))
        first = self._stream_epoch(epoch, stream).first[window * self.window : (window + 1) * self.window]
        return np.searchsorted(np.cumsum(self.sizes), first, side="right")

    def _samples_of_stream(self, epoch: int, stream: int, index: Ints) -> Ints:
        out = np.empty(len(index), dtype=np.int64)
        starts = self._stream_epoch(epoch, stream).starts
        window_of = np.searchsorted(starts, index, side="right") - 1
        for window in np.unique(window_of):
            selected = window_of == window
            out[selected] = self._samples(epoch, stream, int(window))[index[selected] - starts[window]]
        return out

    def _cut_stream(self, stream: int) -> _Stream:
        """The first N % S streams have one more sample, so that sample p // S exists for every position p < N."""
        shuffled = permutation(len(self.sizes), self.seed, _SPLIT)
        ends = np.cumsum(self.sizes[shuffled])
        each, more = divmod(self._total, self.streams)
        low = stream * each + min(stream, more)
        high = low + each + (stream < more)
        begins = ends - self.sizes[shuffled]
        first, last = np.maximum(begins, low), np.minimum(ends, high)
        kept = first < last
        in_archive = (np.cumsum(self.sizes) - self.sizes)[shuffled]  # number of each shard's first sample
        return _Stream((in_archive + first - begins)[kept], (last - first)[kept])

    def _shuffle_stream(self, epoch: int, stream: int) -> _StreamEpoch:
        cut = self._stream(stream)
        shuffled = permutation(len(cut.sizes), self.seed, _EPOCH, epoch, stream)
        sizes = cut.sizes[shuffled]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        windows = np.append(starts[:-1][:: self.window], starts[-1])
        return _StreamEpoch(cut.first[shuffled], sizes, windows)

    def _shuffle_window(self, epoch: int, stream: int, window: int) -> Ints:
        plan = self._stream_epoch(epoch, stream)
        spans = slice(window * self.window, (window + 1) * self.window)
        first, sizes = plan.first[spans], plan.sizes[spans]
        begins = np.cumsum(sizes) - sizes
        samples = np.repeat(first - begins, sizes) + np.arange(sizes.sum())
        return samples[permutation(len(samples), self.seed, _WINDOW, epoch, stream, window)]


def positions_by_stream(first: int, count: int, streams: int, part: slice) -> Ints:
    """`part` of the positions [first, first + count) after ordering them by stream.

    If all streams contribute equally, only the part is computed: the cost per rank does not grow with the world size.
    """
    if first % streams or count % streams:
        positions = np.arange(first, first + count, dtype=np.int64)
        return positions[np.argsort(positions % streams, kind="stable")][part]
    indices = np.arange(*part.indices(count), dtype=np.int64)
    stream, index_in_stream = indices // (count // streams), indices % (count // streams)
    return first + stream + index_in_stream * streams


def rank_slice(global_batch: int, rank: int, world: int) -> slice:
    """The slice of a global batch that a rank reads. ValueError if the batch is not divisible by the world size.

    Gradient accumulation acts as a larger world: micro-batch a of A on rank r is the slice of rank r*A + a of world*A.
    """
    if global_batch % world:
        below, above = global_batch // world * world, -(-global_batch // world) * world
        raise ValueError(
            f"train.global_batch: got {global_batch} for {world} ranks, expected a multiple of {world}. Set it to "
            f"{' or '.join(str(size) for size in (below, above) if size)}, or start another number of ranks."
        )
    each = global_batch // world
    return slice(rank * each, (rank + 1) * each)
