"""Coreset: greedy k-centres, so that no image is far from a labelled one (Sener & Savarese 2018, algorithm 1)."""

from typing import final

import numpy as np
import torch
from torch import Tensor

from rspretrain.active_learning.queries.base import Query
from rspretrain.active_learning.queries.candidates import Candidates, Positions
from rspretrain.rng import mix

_PURPOSE = 0x636F7265  # of the draw
_CHUNK = 1024  # candidates at a time


@final
class Coreset(Query):
    """Greedy k-centres on the features."""

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """Repeat b times: the image farthest from its nearest labelled or chosen one; the first row of equals.

        If nothing is labelled yet, the first image is random.
        """
        x = candidates.features
        free = np.ones(len(x), dtype=np.bool_)
        chosen: list[int] = []
        distance = _from_labelled(x, candidates.labelled)
        if not len(candidates.labelled):
            distance[mix(seed, _PURPOSE) % len(x)] = torch.inf
        while len(chosen) < budget:
            far = int(np.argmax(np.where(free, distance.numpy(), -1.0)))
            distance = torch.minimum(distance, (x - x[far]).square().sum(dim=1))
            free[far] = False
            chosen.append(far)
        return np.array(chosen, dtype=np.int64)


def _from_labelled(x: Tensor, labelled: Tensor) -> Tensor:
    """[N] squared distance of features [N D] from the nearest of [M D]; the largest float32 if M = 0."""
    if not len(labelled):
        return torch.full((len(x),), torch.finfo(torch.float32).max)
    # By differences: in the expanded form, small distances between large features are rounding noise.
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, labelled, compute_mode=exact).amin(dim=1).square() for part in x.split(_CHUNK)])
