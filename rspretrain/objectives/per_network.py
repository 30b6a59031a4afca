"""Objectives of one network a sensor: the mean of their losses, each loss beside it, chance, and the worst health."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from rspretrain.objectives.base import CHANCE_RATIO, Losses
from rspretrain.objectives.contrastive import worst


def loss_names(method: str, networks: Iterable[str]) -> tuple[str, ...]:
    """The name of the mean and, where there are several networks, of every one's own; and of the chance ratio."""
    names = list(networks)
    return (f"loss/{method}", *(f"loss/{method}_{name}" for name in names if len(names) > 1), CHANCE_RATIO)


def mean_loss(
    method: str, losses: Mapping[str, Tensor], health: Sequence[Mapping[str, Tensor]], chance: float | Tensor
) -> Losses:
    """`losses` by network (scalars), their `health` in the same order, of which the worst of every measure is kept.

    `chance`: what guessing would score instead of the mean loss.
    """
    loss = torch.stack(list(losses.values())).mean()
    own = losses.values() if len(losses) > 1 else ()
    metrics = dict(zip(loss_names(method, losses), (loss, *own, loss / chance), strict=True))
    return Losses(loss, {name: value.detach() for name, value in metrics.items()} | worst(health))
