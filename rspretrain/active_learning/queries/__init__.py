"""Query functions choose the images to label next. One per file, pure functions of the candidates and the seed."""

from typing import Annotated

import torch

from rspretrain import world
from rspretrain.active_learning.queries.base import Query, QuerySettings
from rspretrain.active_learning.queries.candidates import Candidates
from rspretrain.arrays import Rows
from rspretrain.registry import Registry, SettingsByName

QUERIES = Registry(
    "query",
    Query,  # type: ignore[type-abstract]
    {
        "mge": "rspretrain.active_learning.queries.mge:Mge",
        "random": "rspretrain.active_learning.queries.random:Random",
        "entropy": "rspretrain.active_learning.queries.entropy:Entropy",
        "badge": "rspretrain.active_learning.queries.badge:Badge",
        "coreset": "rspretrain.active_learning.queries.coreset:Coreset",
        "kmeans": "rspretrain.active_learning.queries.kmeans:KMeansQuery",
    },
)
# The section `query` of a configuration: the settings of the query function that `name` chooses.
QuerySection = Annotated[QuerySettings, SettingsByName(QUERIES, default="mge")]


def choose(settings: QuerySettings, candidates: Candidates, budget: int, seed: int) -> Rows:
    """The rows of `budget` images to label next, the most informative first; the same on all ranks.

    All ranks pass the same candidates (`gather_candidates`). ValueError if there are fewer than `budget`.
    """
    if not 1 <= budget <= len(candidates):
        raise ValueError(
            f"A query for {budget} images got {len(candidates)} without labels; expected 1 to {len(candidates)}. Lower "
            "the number of images per round, or end the loop."
        )
    chosen = QUERIES.find(settings.name)(settings)(candidates, budget, seed)
    assert len(set(chosen.tolist())) == budget, f"{settings.name} chose an image twice, or too few: {chosen}"
    # Different machines differ in the last bits, so all ranks use the choice of the first.
    first: Rows = world.gather_stack(torch.from_numpy(candidates.rows[chosen]))[0].numpy()
    return first
