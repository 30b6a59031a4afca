"""The readers of all sources of a run behind one `gather`: each sample of a batch comes from its own set."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from rspretrain.streaming.reader import Buffers, Reader
from rspretrain.streaming.sources import Sources

Ints = NDArray[np.int64]


class JointReader:
    """Gathers rows of Sources, numbered on from set to set. Threads may share it, each with buffers of its own."""

    def __init__(self, sources: Sources, readers: Sequence[Reader]) -> None:
        self.sources, self._readers = sources, readers

    def gather(self, rows: Ints, buffers: Buffers) -> Ints:
        """Copy the samples of `rows` into the first len(rows) places; returns the rows that are there. See Reader."""
        if len(self._readers) == 1:
            return self._readers[0].gather(rows, buffers, range(len(rows)))
        there = np.empty_like(rows)
        numbers, local = self.sources.locate(rows)
        for number, (reader, first) in enumerate(zip(self._readers, self.sources.first_rows, strict=False)):
            places = np.flatnonzero(numbers == number)
            there[places] = first + reader.gather(local[places], buffers, places.tolist())
        return there

    @property
    def stand_ins(self) -> dict[int, int]:
        """Damaged row -> the row that is taken for it, as far as they were found."""
        return {
            first + row: first + other
            for reader, first in zip(self._readers, self.sources.first_rows, strict=False)
            if reader.quarantine is not None
            for row, other in reader.quarantine.stand_ins.items()
        }

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Shards of remote sets are fetched ahead, as `expect` says, while the block runs."""
        with ExitStack() as stack:
            for reader in self._readers:
                stack.enter_context(reader.fetching())
            yield

    def expect(self, numbers: Sequence[Sequence[int]]) -> None:
        """For every source the shards that are needed from now on, in order."""
        for reader, wanted in zip(self._readers, numbers, strict=True):
            reader.expect(wanted)

    def stop(self) -> None:
        """Whoever waits for a shard of a remote set gives up."""
        for reader in self._readers:
            reader.stop()
