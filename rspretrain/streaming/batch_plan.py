"""The composition of every global batch, as a pure function of the step.

`EpochPlan` iterates over one shard set, epoch after epoch; `mixture.Mixture` combines several shard sets.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np

from rspretrain.arrays import Ints
from rspretrain.streaming.sampler import EpochSampler

Windows = dict[int, tuple[int, int]]  # stream -> first and last window in use, counted across epochs


@dataclass(frozen=True)
class SampleIndices:
    """The samples of a batch: `position` [B] in epoch `epoch` [B] of the sampler of source number `source` [B]."""

    source: Ints
    epoch: Ints
    position: Ints


class BatchPlan(ABC):
    """The endless sequence of global batches over the samplers of one or more sources."""

    samplers: tuple[EpochSampler, ...]
    steps_per_epoch: int
    dropped: int  # samples per epoch that are in no batch: the last, short batch

    @abstractmethod
    def indices(self, step: int, part: slice = slice(None)) -> SampleIndices:
        """The samples in `part` of the global batch of a step (see sampler.rank_slice)."""

    @abstractmethod
    def windows(self, first_step: int, last_step: int, part: slice) -> list[Windows]:
        """The windows of each source that `part` of steps first..last reads. Computes no permutation of samples."""

    @abstractmethod
    def counts(self, step: int) -> Ints:
        """[sources] the number of samples of each source in the first `step` steps."""


@final
class EpochPlan(BatchPlan):
    """One source: every sample once per epoch. Samples that do not fill a batch are dropped from that epoch."""

    def __init__(self, sampler: EpochSampler, global_batch: int) -> None:
        self.samplers = (sampler,)
        self._sampler, self._global_batch = sampler, global_batch
        self.steps_per_epoch, self.dropped = divmod(len(sampler), global_batch)

    def indices(self, step: int, part: slice = slice(None)) -> SampleIndices:
        """See BatchPlan."""
        epoch, positions = self._positions(step, part)
        return SampleIndices(np.zeros_like(positions), np.full_like(positions, epoch), positions)

    def windows(self, first_step: int, last_step: int, part: slice) -> list[Windows]:
        """See BatchPlan."""
        windows = self._sampler.windows(*self._positions(first_step, part))
        for stream, (low, high) in self._sampler.windows(*self._positions(last_step, part)).items():
            windows[stream] = min(low, windows.get(stream, (low, high))[0]), high
        return [windows]

    def counts(self, step: int) -> Ints:
        """See BatchPlan."""
        return np.array([step * self._global_batch], dtype=np.int64)

    def _positions(self, step: int, part: slice) -> tuple[int, Ints]:
        epoch, batch = divmod(step, self.steps_per_epoch)
        return epoch, self._sampler.batch_positions(batch, self._global_batch, part)
