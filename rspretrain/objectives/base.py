"""What an objective is: one module, one forward, from a batch to a loss and the numbers that a person watches."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone
from rspretrain.nn.ema import TeacherPair
from rspretrain.registry import NamedSettings
from rspretrain.transforms.inputs import NetworkInput

CHANCE_RATIO = "health/chance_ratio"  # the loss as a share of what guessing scores: 1 has learnt nothing yet


@dataclass(frozen=True)
class Losses:
    """`loss` is what is minimised (a float32 scalar, the mean over this rank's samples); `metrics` are detached."""

    loss: Tensor
    metrics: dict[str, Tensor]  # "loss/…" or "health/…", every name declared in Objective.metric_names


@dataclass(frozen=True)
class Progress:
    """Where a run stands before a step: all that a schedule may depend on."""

    step: int  # finished steps, 0 before the first
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> float:
        """Finished epochs; 1.5 in the middle of the second."""
        return self.step / self.steps_per_epoch


class ObjectiveSettings(NamedSettings):
    """The section `objective` of a pretraining run; every objective extends it by its own settings."""


class Objective(nn.Module, ABC):
    """One self-supervised method. Knows nothing of ranks, precision, optimizers or logging.

    The constructor's arguments are `(settings, sensors, backbone, groups)`, as `build_objective` passes them.
    """

    Settings: ClassVar[type[ObjectiveSettings]] = ObjectiveSettings
    metric_names: tuple[str, ...]  # a collapse measure ("health/…") is always among them
    groups: tuple[str, ...]  # the groups that forward reads from a batch; nothing else is fetched from the shards
    # A step is more than the sum of its samples: losses that compare them, centers. Batch norms count by themselves.
    couples_samples: bool
    # Whether somebody looks at the next forward's health, which waits for the device; losses are told always.
    is_watched: bool = True
    # Of the teachers' coming update, teacher <- momentum * teacher + (1 - momentum) * student; set by `prepare`.
    momentum: float | None = None  # None: there are no teachers

    @abstractmethod
    def prepare(self, progress: Progress) -> None:
        """Set what depends on the step, by `progress` alone, so that it need not be saved; before every forward."""

    @abstractmethod
    def teachers(self) -> Sequence[TeacherPair]:
        """Every teacher with the student that it follows; the strategy moves it after each step that moved weights."""

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """One step's loss on the samples of this rank."""

    @abstractmethod
    def backbones(self) -> dict[str, Backbone]:
        """What the run exists for: the networks to export by name, which is the sensor's, or "s1+s2" for several."""

    @abstractmethod
    def inputs(self) -> dict[str, NetworkInput]:
        """By the same names, how pixels become a network's input: for evaluation, probes and an export's contract."""


class StaticObjective(Objective):
    """An objective that is the same at every step and has no teacher."""

    @final
    def prepare(self, progress: Progress) -> None:
        """Nothing depends on the step."""

    @final
    def teachers(self) -> Sequence[TeacherPair]:
        """None."""
        return ()
