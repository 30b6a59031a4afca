"""BADGE: images with large and diverse gradients at the last layer (Ash et al. 2020; docs/methods.md, BADGE).

A gradient is the outer product of a = p - yhat [K] and the features h [D]. It is never formed, because the inner
product of two outer products is a product of inner products: |g - g'|^2 = |a|^2 |h|^2 + |a'|^2 |h'|^2 - 2 (a . a') (h .
h'). For multi-label data, a is the residual of all sigmoids; the factor 1/K of the mean loss scales all gradients
equally. As in the authors' code (JordanAsh/badge), the first image has the largest gradient, and k-means++ draws the
next ones with probabilities proportional to their squared distances from the nearest chosen image.
"""

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain.active_learning.queries.base import Query
from rspretrain.active_learning.queries.candidates import Candidates, Positions
from rspretrain.rng import mix

_PURPOSE = 0x62616467  # separates these draws from all others with the same seed


@final
class Badge(Query):
    """k-means++ on gradient embeddings."""

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """See Query; images are in the order of the draws."""
        gradients = Gradients(candidates)
        chosen = [int(np.argmax(gradients.squares.numpy()))]
        distance = gradients.distances(chosen[0])
        while len(chosen) < budget:
            distance[chosen] = 0.0
            chosen.append(_draw(distance.numpy(), chosen, mix(seed, _PURPOSE, len(chosen))))
            distance = torch.minimum(distance, gradients.distances(chosen[-1]))
        return np.array(chosen, dtype=np.int64)


class Gradients:
    """The gradient embeddings [N K D] of candidates, stored as their factors."""

    def __init__(self, candidates: Candidates) -> None:
        # float64: a distance is a small difference of large numbers.
        self.a, self.h = candidates.residuals().double(), candidates.features.double()
        self.squares: Tensor = self.a.square().sum(dim=1) * self.h.square().sum(dim=1)  # [N] squared norms

    def distances(self, position: int) -> Tensor:
        """[N] float64: squared distances of all embeddings from that of one image."""
        products = (self.a @ self.a[position]) * (self.h @ self.h[position])
        return (self.squares + self.squares[position] - 2 * products).clamp(min=0.0)


def _draw(weights: NDArray[np.float64], chosen: list[int], word: int) -> int:
    """A position drawn in proportion to its weight; the first free one if all weights are 0 (duplicates)."""
    total = np.cumsum(weights)
    if total[-1] <= 0.0:
        return int(np.setdiff1d(np.arange(len(weights)), chosen)[0])
    uniform = (word >> 12) / 2**52  # in [0, 1), with a margin that keeps the product below the total
    return int(np.searchsorted(total, uniform * total[-1], side="right"))
