"""What the global batch of every step is made of: a pure function of the step, whoever computes it and wherever.

`EpochPlan` goes through one shard set, epoch after epoch; `mixture.Mixture` weaves several together.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from rspretrain.streaming.sampler import EpochSampler

Ints = NDArray[np.int64]
Windows = dict[int, tuple[int, int]]  # stream -> the first and the last window in use, numbered on through the epochs


@dataclass(frozen=True)
class Picks:
    """Samples of a batch: `position` [B] of epoch `epoch` [B] in the order of source number `source` [B]."""

    source: Ints
    epoch: Ints
    position: Ints


class BatchPlan(ABC):
    """The endless sequence of global batches over the orders of one or more sources."""

    orders: tuple[EpochSampler, ...]
    steps_per_epoch: int
    dropped: int  # samples of an epoch that no batch has: the last, short one

    @abstractmethod
    def picks(self, step: int, part: slice = slice(None)) -> Picks:
        """The samples of a step that lie in `part` of its global batch (see order.rank_slice)."""

    @abstractmethod
    def windows(self, first_step: int, last_step: int, part: slice) -> list[Windows]:
        """For every source the windows that `part` of steps first..last lies in. Costs no permutation of samples."""

    @abstractmethod
    def counts(self, step: int) -> Ints:
        """[sources] how many samples of each the first `step` steps have."""


@final
class EpochPlan(BatchPlan):
    """One source: every sample once an epoch, the rest that does not fill a batch is left out of this epoch."""

    def __init__(self, order: EpochSampler, global_batch: int) -> None:
        self.orders = (order,)
        self._order, self._global_batch = order, global_batch
        self.steps_per_epoch, self.dropped = divmod(len(order), global_batch)

    def picks(self, step: int, part: slice = slice(None)) -> Picks:
        """See BatchPlan."""
        epoch, positions = self._positions(step, part)
        return Picks(np.zeros_like(positions), np.full_like(positions, epoch), positions)

    def windows(self, first_step: int, last_step: int, part: slice) -> list[Windows]:
        """See BatchPlan."""
        windows = self._order.windows(*self._positions(first_step, part))
        for stream, (low, high) in self._order.windows(*self._positions(last_step, part)).items():
            windows[stream] = min(low, windows.get(stream, (low, high))[0]), high
        return [windows]

    def counts(self, step: int) -> Ints:
        """See BatchPlan."""
        return np.array([step * self._global_batch], dtype=np.int64)

    def _positions(self, step: int, part: slice) -> tuple[int, Ints]:
        epoch, batch = divmod(step, self.steps_per_epoch)
        return epoch, self._order.batch_positions(batch, self._global_batch, part)
