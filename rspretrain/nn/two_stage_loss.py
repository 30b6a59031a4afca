"""Losses that compare all samples of a step with each other, in two halves: the first may work piece by piece."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from rspretrain.batch import Batch


class TwoStageLoss(ABC):
    """`forward(batch)` is `compare(embed(batch))`; what `embed` gives for a sample depends on no other sample.

    Then a large batch is embedded piece by piece, compared as a whole, and the gradient of the embeddings is carried
    through each piece again: the whole batch's gradient in the memory of one piece (Gao et al. 2021, GradCache).
    BatchNorm breaks the condition, so a network that has it is refused with strategy.accumulate.
    """

    @abstractmethod
    def embed(self, batch: Batch) -> Tensor:
        """[V B D] embeddings of V views of B samples."""

    @abstractmethod
    def compare(self, embeddings: Tensor) -> Any:
        """Loss and metrics of all embeddings [V B D] of this rank, with those of the other ranks."""
