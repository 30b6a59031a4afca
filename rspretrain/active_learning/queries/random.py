"""Random images: the baseline of all query functions."""

from typing import final

import numpy as np

from rspretrain.active_learning.queries.base import Query
from rspretrain.active_learning.queries.candidates import Candidates, Positions
from rspretrain.rng import mix, mix_array

_PURPOSE = 0x72616E64  # separates these draws from all others with the same seed


@final
class Random(Query):
    """Uniformly random images."""

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """See Query. Each row has its own random number, which does not depend on other rows."""
        return np.argsort(mix_array(mix(seed, _PURPOSE), candidates.rows), kind="stable")[:budget]
