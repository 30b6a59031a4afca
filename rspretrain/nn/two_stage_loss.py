"""Interface of losses that compare all samples of a batch, for gradient accumulation with cached gradients."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from rspretrain.batch import Batch


class TwoStageLoss(ABC):
    """`forward(batch)` is `compute_loss(embed(batch))`, and the embedding of a sample depends on no other sample.

    With strategy.accumulate, micro-batches are embedded one by one, the loss is computed on all embeddings, and the
    gradient of the embeddings is backpropagated through each micro-batch in a second forward. This gives the gradient
    of the whole batch in the memory of one micro-batch (GradCache, Gao et al. 2021). BatchNorm breaks the condition, so
    strategy.accumulate refuses networks that contain it.
    """

    @abstractmethod
    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [V B D] of V views of B samples."""

    @abstractmethod
    def compute_loss(self, embeddings: Tensor) -> Any:
        """Loss and metrics of this rank's embeddings [V B D], compared with those of all ranks."""
