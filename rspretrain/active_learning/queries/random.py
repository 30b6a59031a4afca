"""Uniformly random images: the baseline of every other query."""

from typing import final

import numpy as np

from rspretrain.active_learning.queries.base import Query
from rspretrain.active_learning.queries.candidates import Candidates, Positions
from rspretrain.rng import mix, mix_array

_PURPOSE = 0x72616E64  # of the draws


@final
class Random(Query):
    """Every image with the same chance."""

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """b random images. The draw of a row does not depend on the rest of the pool."""
        return np.argsort(mix_array(mix(seed, _PURPOSE), candidates.rows), kind="stable")[:budget]
