"""Candidates for tests of query functions."""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

from rspretrain.active_learning.queries import QUERIES, QuerySection
from rspretrain.active_learning.queries.base import Query, QuerySettings
from rspretrain.active_learning.queries.candidates import Candidates, gather_candidates

LABELLED = 6


def settings(name: str, **values: object) -> QuerySettings:
    """The settings of a query function, as a configuration gives them."""
    found: QuerySettings = TypeAdapter(QuerySection).validate_python({"name": name, **values})
    return found


def query(name: str, **values: object) -> Query:
    """A query function."""
    return QUERIES.find(name)(settings(name, **values))


def candidates(num: int = 60, *, labelled: int = LABELLED, multi: bool = True, seed: int = 0) -> Candidates:
    """`num` images without labels."""
    return gather_candidates(*table(num, labelled=labelled, multi=multi, seed=seed), multi=multi)


def table(
    num: int = 60, *, labelled: int = LABELLED, multi: bool = True, seed: int = 0
) -> tuple[NDArray[np.int64], Tensor, Tensor, NDArray[np.bool_]]:
    """Rows with gaps, features in four clumps (positive, as after a ReLU), probabilities, and which have labels."""
    generator = torch.Generator().manual_seed(seed)
    every = num + labelled
    clumps = torch.nn.functional.one_hot(torch.arange(every) % 4, 8)
    x = 4 * clumps + torch.rand(every, 8, generator=generator)
    logits = 2 * torch.randn(every, 5, generator=generator)
    p = logits.sigmoid() if multi else logits.softmax(dim=1)
    return 3 * np.arange(every), x, p, np.isin(np.arange(every), 5 * np.arange(labelled) + 3)
