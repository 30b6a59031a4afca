"""BADGE: images with large and diverse gradients at the last layer (Ash et al. 2020).

A gradient is the outer product of a = p - yhat [K] and the features h [D]. It is never formed: the product of two outer
products is the product of the products, so |g - g'|^2 = |a|^2 |h|^2 + |a'|^2 |h'|^2 - 2 (a . a') (h . h').
With several labels, a is the residual of all sigmoids (docs/methods.md, BADGE); the factor 1/C of the mean loss is the
same for all images, so it is left out.
As in the authors' code (JordanAsh/badge), the first image has the largest gradient, and each next one is drawn by
k-means++: with a probability proportional to its squared distance from the nearest chosen one.
"""

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain.active_learning.queries.base import Query
from rspretrain.active_learning.queries.candidates import Candidates, Positions
from rspretrain.rng import mix

_PURPOSE = 0x62616467  # of the draws


@final
class Badge(Query):
    """k-means++ on gradient embeddings."""

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """b images in the order of the draws."""
        gradients = Gradients(candidates)
        chosen = [int(np.argmax(gradients.squares.numpy()))]
        distance = gradients.distances(chosen[0])
        while len(chosen) < budget:
            distance[chosen] = 0.0
            chosen.append(_draw(distance.numpy(), chosen, mix(seed, _PURPOSE, len(chosen))))
            distance = torch.minimum(distance, gradients.distances(chosen[-1]))
        return np.array(chosen, dtype=np.int64)


class Gradients:
    """The gradient embeddings [N K D] of candidates, as their factors."""

    def __init__(self, candidates: Candidates) -> None:
        # float64: a distance is a small difference of large numbers.
        self.a, self.h = candidates.residuals().double(), candidates.features.double()
        self.squares: Tensor = self.a.square().sum(dim=1) * self.h.square().sum(dim=1)  # [N] squared norms

    def distances(self, index: int) -> Tensor:
        """[N] float64: the squared distance of every embedding from that of one image."""
        products = (self.a @ self.a[index]) * (self.h @ self.h[index])
        return (self.squares + self.squares[index] - 2 * products).clamp(min=0.0)


def _draw(weights: NDArray[np.float64], chosen: list[int], word: int) -> int:
    """Draw an index with a probability proportional to its weight; the first free one if all weights are 0."""
    total = np.cumsum(weights)
    if total[-1] <= 0.0:
        return int(np.setdiff1d(np.arange(len(weights)), chosen)[0])
    share = (word >> 12) / 2**52  # far enough below 1 that the product stays below the total
    return int(np.searchsorted(total, share * total[-1], side="right"))
