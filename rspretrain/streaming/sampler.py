"""The order of samples: a pure function, so that "where were we" is one integer and any world finds the same batches.

    deal      the shards, shuffled once a run, are laid end to end and cut into S equal streams; a stream keeps its
              part of the archive in every epoch, so a node that serves certain streams opens only their shards
    shuffle   in every epoch a stream visits its shards in a new order, and shuffles the samples of `window` shards
              at a time among each other
    weave     position p of an epoch is sample p // S of stream p % S
    batch     global batch b is positions [b*G, (b+1)*G), listed stream by stream; a rank takes its contiguous slice

Nothing depends on ranks, workers or accumulation: those only say who reads which slice. Everything is integer
arithmetic on keyed hashes, equal on every machine and for every version of every library. Seeking costs one
permutation of a window, not a pass over what came before.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rspretrain.rng import permutation

Ints = NDArray[np.int64]
# Purposes of permutations, mixed into their keys.
_DEAL, _VISIT, _WINDOW = 1, 2, 3


@dataclass(frozen=True)
class _Stream:
    """One stream's part of the archive: spans of shards, as [first, last) in the dealt sequence of samples."""

    first: Ints  # [spans] in the selection's own numbering (shard by shard)
    sizes: Ints  # [spans]


@dataclass(frozen=True)
class _Visit:
    """One stream in one epoch: its spans in the order of the visit, and where every window begins."""

    first: Ints  # [spans]
    sizes: Ints  # [spans]
    starts: Ints  # [windows + 1] index of a window's first sample in the stream; the last entry is the stream's length


class EpochSampler:
    """The global sequence of samples of every epoch.

    Samples are numbered 0..N-1 shard by shard (the loader maps them to rows of the index). `sizes` are the numbers of
    selected samples of every shard, `streams` the canonical streams S, `window` the shards that are shuffled together.
    """

    def __init__(self, sizes: Ints, *, seed: int, streams: int, window: int) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.seed, self.streams, self.window = seed, streams, window
        shards = int(np.count_nonzero(self.sizes))
        if not 1 <= streams <= shards:
            raise ValueError(
                f"order needs at least one shard per canonical stream: got {shards} shards with samples for {streams} "
                f"streams. Set data.streams to 1..{shards}, or build smaller shards (shards/build.py "
                "--samples-per-shard)."
            )
        if window < 1:
            raise ValueError(f"order needs a window of at least one shard, got data.window={window}. Use 16 or more.")
        self._total = int(self.sizes.sum())
        self._stream = lru_cache(maxsize=None)(self._cut_stream)
        self._visit = lru_cache(maxsize=2 * streams)(self._plan_visit)
        self._samples = lru_cache(maxsize=2 * streams)(self._shuffle_window)

    def __len__(self) -> int:
        """Samples in an epoch."""
        return self._total

    def samples(self, epoch: int, positions: Ints) -> Ints:
        """[B] the samples at some positions of an epoch."""
        out = np.empty(len(positions), dtype=np.int64)
        stream_of, index_of = positions % self.streams, positions // self.streams
        for stream in np.unique(stream_of):
            here = stream_of == stream
            out[here] = self._of_stream(epoch, int(stream), index_of[here])
        return out

    def batch_positions(self, batch: int, global_batch: int, part: slice = slice(None)) -> Ints:
        """The positions of a part of one global batch of an epoch, stream by stream; fewer at the end of the epoch."""
        first = batch * global_batch
        return listed(first, min(global_batch, self._total - first), self.streams, part)

    def shards_of_stream(self, stream: int) -> Ints:
        """The shards that a stream ever opens."""
        cut = self._stream(stream)
        ends = np.cumsum(self.sizes)
        return np.unique(np.searchsorted(ends, cut.first, side="right"))

    def windows(self, epoch: int, positions: Ints) -> dict[int, tuple[int, int]]:
        """stream -> the first and the last window that positions of an epoch touch, numbered on through the epochs.

        Costs no permutation of samples.
        """
        found = {}
        stream_of, index_of = positions % self.streams, positions // self.streams
        for stream in np.unique(stream_of).tolist():
            index = index_of[stream_of == stream]
            starts = self._visit(epoch, stream).starts
            first, last = np.searchsorted(starts, (index.min(), index.max()), side="right") - 1
            before = epoch * self.num_windows(stream)
            found[stream] = before + int(first), before + int(last)
        return found

    def num_windows(self, stream: int) -> int:
        """Windows of a stream in every epoch."""
        return -(-len(self._stream(stream).sizes) // self.window)

    def shards_of_window(self, stream: int, number: int) -> Ints:
        """The shards of a window (numbered as in `windows`), in the order of the visit."""
        epoch, window = divmod(number, self.num_windows(stream))
        first = self._visit(epoch, stream).first[window * self.window : (window + 1) * self.window]
        return np.searchsorted(np.cumsum(self.sizes), first, side="right")

    def _of_stream(self, epoch: int, stream: int, index: Ints) -> Ints:
        out = np.empty(len(index), dtype=np.int64)
        starts = self._visit(epoch, stream).starts
        window_of = np.searchsorted(starts, index, side="right") - 1
        for window in np.unique(window_of):
            here = window_of == window
            out[here] = self._samples(epoch, stream, int(window))[index[here] - starts[window]]
        return out

    def _cut_stream(self, stream: int) -> _Stream:
        """The first N % S streams hold one sample more, so position p // S exists for every p < N."""
        dealt = permutation(len(self.sizes), self.seed, _DEAL)
        ends = np.cumsum(self.sizes[dealt])
        each, more = divmod(self._total, self.streams)
        low = stream * each + min(stream, more)
        high = low + each + (stream < more)
        begins = ends - self.sizes[dealt]
        first, last = np.maximum(begins, low), np.minimum(ends, high)
        held = first < last
        in_archive = (np.cumsum(self.sizes) - self.sizes)[dealt]  # where each dealt shard begins in the archive
        return _Stream((in_archive + first - begins)[held], (last - first)[held])

    def _plan_visit(self, epoch: int, stream: int) -> _Visit:
        cut = self._stream(stream)
        visit = permutation(len(cut.sizes), self.seed, _VISIT, epoch, stream)
        sizes = cut.sizes[visit]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        windows = np.append(starts[:-1][:: self.window], starts[-1])
        return _Visit(cut.first[visit], sizes, windows)

    def _shuffle_window(self, epoch: int, stream: int, window: int) -> Ints:
        visit = self._visit(epoch, stream)
        spans = slice(window * self.window, (window + 1) * self.window)
        first, sizes = visit.first[spans], visit.sizes[spans]
        begins = np.cumsum(sizes) - sizes
        samples = np.repeat(first - begins, sizes) + np.arange(sizes.sum())
        return samples[permutation(len(samples), self.seed, _WINDOW, epoch, stream, window)]


def listed(first: int, count: int, streams: int, part: slice) -> Ints:
    """`part` of the positions [first, first + count), listed stream by stream.

    Where every stream gives as many, that costs the part and not the whole: a rank's cost does not grow with the world.
    """
    if first % streams or count % streams:
        positions = np.arange(first, first + count, dtype=np.int64)
        return positions[np.argsort(positions % streams, kind="stable")][part]
    slots = np.arange(*part.indices(count), dtype=np.int64)
    stream, turn = slots // (count // streams), slots % (count // streams)
    return first + stream + turn * streams


def rank_slice(global_batch: int, rank: int, world: int) -> slice:
    """The part of a global batch that a rank takes. ValueError where the batch does not divide.

    Accumulation is a larger world: micro-batch a of A on rank r takes the slice of rank r*A + a in a world of world*A.
    """
    if global_batch % world:
        below, above = global_batch // world * world, -(-global_batch // world) * world
        raise ValueError(
            f"A global batch of {global_batch} does not divide among {world} ranks. Set train.global_batch to "
            f"{' or '.join(str(size) for size in (below, above) if size)}, or start another number of ranks."
        )
    each = global_batch // world
    return slice(rank * each, (rank + 1) * each)
