"""Entropy: the images with the most uncertain predictions (Settles 2009, section 3.1)."""

from typing import final

from torch.special import entr

from rspretrain.active_learning.queries.base import Query
from rspretrain.active_learning.queries.candidates import Candidates, Positions, largest_first


@final
class Entropy(Query):
    """The images with the largest entropy."""

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """The b largest entropies: of the softmax, or summed over the sigmoids of the classes.

        `seed` is not used.
        """
        p = candidates.probabilities
        entropy = entr(p) + entr(1 - p) if candidates.multi else entr(p)
        return largest_first(entropy.sum(dim=1))[:budget]
