"""Gather per-sample results from all ranks: each sample once, sorted by row.

torch's `DistributedSampler` repeats samples until all ranks have the same number, which biases metrics. Here some ranks
get one sample less and no sample is repeated. A single process is a world of size 1.
"""

import torch
from torch import Tensor

from rspretrain import world
from rspretrain.arrays import Rows


def local_rows(rows: Rows) -> Rows:
    """The rows that this rank evaluates: every R-th of R ranks, so that counts differ by at most one."""
    part: Rows = rows[world.rank() :: world.size()]
    return part


def gather_samples(rows: Rows, *values: Tensor) -> tuple[Rows, tuple[Tensor, ...]]:
    """Gather rows [n] and values [n …] of all ranks into [N] and [N …], sorted by row.

    ValueError if the number of values differs from the number of rows, or if a row occurs twice.
    """
    if any(len(value) != len(rows) for value in values):
        raise ValueError(
            f"gather_samples got {len(rows)} rows for {[len(value) for value in values]} values; expected one value "
            "per row. Remove the sampler's padding."
        )
    device = values[0].device if values else torch.device("cpu")
    every = world.gather_rows(torch.from_numpy(rows).to(device))
    ascending = every.argsort(stable=True)
    every = every[ascending]
    twice = every[1:][every[1:] == every[:-1]].unique().tolist()
    if twice:
        raise ValueError(
            f"gather_samples got rows {twice[:10]}{' and more' if len(twice) > 10 else ''} more than once from "
            f"{world.size()} ranks; expected every sample once. Give the ranks disjoint rows, without padding."
        )
    return every.cpu().numpy(), tuple(world.gather_rows(value)[ascending.to(value.device)] for value in values)
