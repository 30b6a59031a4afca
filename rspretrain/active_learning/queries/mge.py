"""MGE + clustering: the images with the largest gradients of the last layer, one from each of b clusters.

Möllenbrok & Demir, "Active learning guided fine-tuning", eq. 3 and section 2.2; docs/methods.md, MGE
with clustering. Not given there: m (here 10 b), the bias (left out), and what replaces empty clusters (the next largest
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
    """The image with the largest gradient of each cluster."""

    Settings = MgeSettings
    settings: MgeSettings

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """The largest gradient in each of b clusters of the m = `uncertain` * b largest; largest first."""
        likely = largest_first(magnitudes(candidates))[: self.settings.uncertain * budget]
        cluster = clusters(candidates.features[likely], budget, seed)
        _, best = np.unique(cluster, return_index=True)  # the first of a cluster has its largest gradient
        others = np.setdiff1d(np.arange(len(likely)), best)
        chosen: Positions = likely[np.concatenate([np.sort(best), others])[:budget]]
        return chosen


def magnitudes(candidates: Candidates) -> Tensor:
    """[N] norm of the gradient of the mean loss over classes at the last layer's weights, had the model been right.

    That gradient is the outer product (p - yhat) h / C, so its norm is the product of two: no autograd. One label an
    image has one loss, not a mean over C, and no 1/C.
    """
    num_losses = candidates.probabilities.shape[1] if candidates.multi else 1
    size: Tensor = candidates.residuals().norm(dim=1) * candidates.features.norm(dim=1) / num_losses
    return size
