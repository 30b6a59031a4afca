"""Base class of objectives, their losses and metrics, and how losses of several networks are combined."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone
from rspretrain.nn.ema import TeacherPair
from rspretrain.registry import NamedSettings
from rspretrain.transforms.inputs import NetworkInput

CHANCE_RATIO = "health/chance_ratio"  # the loss divided by the loss of guessing: 1 before anything is learned
_HIGHER_IS_WORSE = {"health/mean_cosine", "health/uniformity"}  # for all other health metrics lower is worse


@dataclass(frozen=True)
class Losses:
    """`loss`: float32 scalar to minimise, the mean over this rank's samples. `metrics`: detached scalars."""

    loss: Tensor
    metrics: dict[str, Tensor]  # "loss/…" or "health/…"; names are declared in Objective.metric_names


@dataclass(frozen=True)
class Progress:
    """Position of a run before a step, the only input of schedules."""

    step: int  # finished steps
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Finished epochs; 1.5 in the middle of the second."""
        return self.step / self.steps_per_epoch


class ObjectiveSettings(NamedSettings):
    """The section `objective` of a pretraining run; every objective extends it by its own settings."""


class Objective(nn.Module, ABC):
    """One self-supervised method, independent of ranks, precision, optimizers and logging.

    Subclasses take `(settings, sensors, backbone, groups)`, as `build_objective` passes them.
    """

    Settings: ClassVar[type[ObjectiveSettings]] = ObjectiveSettings
    metric_names: tuple[str, ...]  # includes at least one collapse measure ("health/…")
    groups: tuple[str, ...]  # groups that forward reads from a batch; only these are fetched from the shards
    # The loss is not a mean over independent samples: it compares samples or uses centers. BatchNorm is not counted.
    couples_samples: bool
    # Compute health metrics in the next forward. They synchronise host and device; losses are always reported.
    compute_health: bool = True
    # EMA momentum of the next update, teacher <- momentum * teacher + (1 - momentum) * student; set by `prepare`.
    momentum: float | None = None  # None: no teachers

    @abstractmethod
    def prepare(self, progress: Progress) -> None:
        """Set everything that depends on the step, from `progress` only, so that checkpoints do not need it.

        Called before every forward.
        """

    @abstractmethod
    def teachers(self) -> Sequence[TeacherPair]:
        """Pairs of student and EMA teacher; the strategy updates teachers after every step that updates weights."""

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """The loss on this rank's samples."""

    @abstractmethod
    def backbones(self) -> dict[str, Backbone]:
        """Network name -> backbone to export. The name is the sensor, or "s1+s2" for several sensors."""

    @abstractmethod
    def inputs(self) -> dict[str, NetworkInput]:
        """Network name -> its input transform, for evaluation, probes and the contract of an export."""


class StaticObjective(Objective):
    """An objective without teachers and schedules."""

    @final
    def prepare(self, progress: Progress) -> None:
        """No effect."""

    @final
    def teachers(self) -> Sequence[TeacherPair]:
        """Empty."""
        return ()


def worst_values(measures: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The worst value of each metric over several measurements with the same names; empty for none."""
    names = measures[0] if measures else ()
    return {
        name: (torch.amax if name in _HIGHER_IS_WORSE else torch.amin)(torch.stack([each[name] for each in measures]))
        for name in names
    }


def loss_names(method: str, networks: Iterable[str]) -> tuple[str, ...]:
    """Metric names of the mean loss, of each network's loss if there are several, and of the chance ratio."""
    names = list(networks)
    return (f"loss/{method}", *(f"loss/{method}_{name}" for name in names if len(names) > 1), CHANCE_RATIO)


def mean_loss(
    method: str, losses: Mapping[str, Tensor], health: Sequence[Mapping[str, Tensor]], chance: float | Tensor
) -> Losses:
    """The mean over networks of `losses` (scalars by network), with the worst value of each `health` metric.

    `chance`: the mean loss of guessing.
    """
    loss = torch.stack(list(losses.values())).mean()
    own = losses.values() if len(losses) > 1 else ()
    metrics = dict(zip(loss_names(method, losses), (loss, *own, loss / chance), strict=True))
    return Losses(loss, {name: value.detach() for name, value in metrics.items()} | worst_values(health))
