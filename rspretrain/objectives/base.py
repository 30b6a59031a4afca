"""What an objective is: one module, one forward, from a batch to a loss and the numbers that a person watches."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone
from rspretrain.objectives.views import SensorInput


@dataclass(frozen=True)
class Losses:
    """`loss` is what is minimised (a float32 scalar, the mean over this rank's samples); `metrics` are detached."""

    loss: Tensor
    metrics: dict[str, Tensor]  # "loss/…" or "health/…", every name declared in Objective.metric_names


class Objective(nn.Module, ABC):
    """One self-supervised method. Knows nothing of ranks, precision, optimizers or logging."""

    metric_names: tuple[str, ...]  # a collapse measure ("health/…") is always among them
    groups: tuple[str, ...]  # the groups that forward reads from a batch; nothing else is fetched from the shards
    # The loss compares samples of one batch with each other, so cutting the batch for gradient accumulation changes it.
    couples_samples: bool

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """One step's loss on the samples of this rank."""

    @abstractmethod
    def backbones(self) -> dict[str, Backbone]:
        """What the run exists for: the network to export for every sensor."""

    @abstractmethod
    def inputs(self) -> dict[str, SensorInput]:
        """Sensor -> how pixels become input of its backbone: for evaluation, probes and the contract of an export."""
