"""MGE + clustering: the image with the largest gradient at the last layer in each of b clusters.

Möllenbrok & Demir, "Active learning guided fine-tuning", eq. 3 and section 2.2; docs/methods.md, MGE + clustering. The
paper does not state m (here 10 b), the bias (here excluded), and the choice for empty clusters (here the next largest
gradients).
"""

from typing import final

import numpy as np
from pydantic import Field
from torch import Tensor

from rspretrain.active_learning.queries.base import Query, QuerySettings
from rspretrain.active_learning.queries.candidates import Candidates, Positions, largest_first
from rspretrain.active_learning.queries.kmeans import clusters


class MgeSettings(QuerySettings):
    """MGE with clustering."""

    name: str = Field(default="mge", description="MGE with clustering.")
    uncertain: int = Field(default=10, ge=1, description="Candidates to cluster per image to label (m / b).")


@final
class Mge(Query):
    """The image with the largest gradient in each cluster."""

    Settings = MgeSettings
    settings: MgeSettings

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """See Query. Clusters the m = `uncertain` * b images with the largest gradients; the largest are first."""
        likely = largest_first(magnitudes(candidates))[: self.settings.uncertain * budget]
        cluster = clusters(candidates.features[likely], budget, seed)
        _, best = np.unique(cluster, return_index=True)  # the first image of a cluster has its largest gradient
        others = np.setdiff1d(np.arange(len(likely)), best)
        positions: Positions = likely[np.concatenate([np.sort(best), others])[:budget]]
        return positions


def magnitudes(candidates: Candidates) -> Tensor:
    """[N] norm of the loss gradient at the last layer's weights, if the predictions were correct.

    The gradient is the outer product (p - yhat) h / K, so its norm is a product of two norms without autograd. The
    factor 1/K is from the mean over classes and applies to multi-label data only.
    """
    num_losses = candidates.probabilities.shape[1] if candidates.multi else 1
    size: Tensor = candidates.residuals().norm(dim=1) * candidates.features.norm(dim=1) / num_losses
    return size
