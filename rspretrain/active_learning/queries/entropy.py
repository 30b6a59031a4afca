"""Entropy: the images whose labels the model is least sure of (Settles 2009, section 3.1)."""

from torch.special import entr

from rspretrain.active_learning.queries.candidates import Candidates, Places, largest_first


def query(candidates: Candidates, budget: int, seed: int) -> Places:
    """The b largest entropies: of the classes together, or summed over the classes where each is a question of its own.

    No draw: `seed` changes nothing.
    """
    p = candidates.probabilities
    entropy = entr(p) + entr(1 - p) if candidates.multi else entr(p)
    return largest_first(entropy.sum(dim=1))[:budget]
