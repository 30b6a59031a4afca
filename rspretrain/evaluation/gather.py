"""What the ranks found out about their shares of some samples, together: every sample once, in the order of its row.

`DistributedSampler` repeats samples until all ranks have equally many, and whoever counts them is wrong by those
(methods.md H.1). Here a share is short where it has to be, nothing is repeated, and one process is a world of one.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain import world

Rows = NDArray[np.int64]


def share(rows: Rows) -> Rows:
    """The part of `rows` that this rank looks at: every R-th of R ranks, so that shares differ by one at most."""
    part: Rows = rows[world.rank() :: world.size()]
    return part


def gather_samples(rows: Rows, *values: Tensor) -> tuple[Rows, tuple[Tensor, ...]]:
    """Rows [n] and values [n …] of every rank as [N] and [N …], ascending by row, whichever rank had which.

    ValueError where values are not one a row, or where a row comes twice.
    """
    if any(len(value) != len(rows) for value in values):
        raise ValueError(
            f"Gathering samples got {len(rows)} rows for {[len(value) for value in values]} values; expected one value "
            "a row. Cut what a sampler padded."
        )
    device = values[0].device if values else torch.device("cpu")
    every = world.gather_rows(torch.from_numpy(rows).to(device))
    ascending = every.argsort(stable=True)
    every = every[ascending]
    twice = every[1:][every[1:] == every[:-1]].unique().tolist()
    if twice:
        raise ValueError(
            f"Gathering samples got rows {twice[:10]}{' and more' if len(twice) > 10 else ''} more than once from "
            f"{world.size()} ranks; expected every sample once. Give the ranks disjoint shares, without padding."
        )
    return every.cpu().numpy(), tuple(world.gather_rows(value)[ascending.to(value.device)] for value in values)
