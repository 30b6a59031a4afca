"""Which images to label next. A strategy is one file with one function, and one row here.

    query(candidates, budget, seed) -> places of `budget` different candidates, those that tell most first

Pure functions of what the model sees and the seed: equal values are taken in the order of rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from pydantic import Field

from rspretrain import world
from rspretrain.active_learning.queries import badge, coreset, entropy, kmeans, mge, random
from rspretrain.active_learning.queries.candidates import Candidates, Places
from rspretrain.arrays import Rows
from rspretrain.settings import Settings

Query = Callable[[Candidates, int, int], Places]

QUERIES: dict[str, Query] = {
    "mge": mge.query,
    "random": random.query,
    "entropy": entropy.query,
    "badge": badge.query,
    "coreset": coreset.query,
    "kmeans": kmeans.query,
}


class QuerySettings(Settings):
    """Which images are labelled next."""

    name: Literal["mge", "random", "entropy", "badge", "coreset", "kmeans"] = Field(
        default="mge", description="Query function: MGE with clustering, or one of the baselines."
    )
    uncertain: int = Field(
        default=mge.UNCERTAIN, ge=1, description="Candidates to cluster per image to label (m / b); mge."
    )

    @property
    def query(self) -> Query:
        """The function."""
        return partial(mge.query, uncertain=self.uncertain) if self.name == "mge" else QUERIES[self.name]


def choose(settings: QuerySettings, candidates: Candidates, budget: int, seed: int) -> Rows:
    """The rows of `budget` images to label next, those that tell most first; the same on all ranks.

    All ranks give the same candidates (`gather_candidates`). ValueError where there are fewer than `budget`.
    """
    if not 1 <= budget <= len(candidates):
        raise ValueError(
            f"A query for {budget} images got {len(candidates)} without labels; expected 1 to {len(candidates)}. Lower "
            "the number of images a round, or end the loop."
        )
    places = settings.query(candidates, budget, seed)
    assert len(set(places.tolist())) == budget, f"{settings.name} chose an image twice, or too few: {places}"
    # Unlike machines differ in the last bits: the first rank's choice holds.
    first: Rows = world.gather_stack(torch.from_numpy(candidates.rows[places]))[0].numpy()
    return first
