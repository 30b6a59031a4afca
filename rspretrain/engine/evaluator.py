"""Evaluators: evaluation of the weights during a run, early stopping, and the results at its end."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import final

from torch import Tensor

from rspretrain import world
from rspretrain.engine.checkpoint import gather_to_cpu
from rspretrain.engine.export import Origin, export_backbones
from rspretrain.objectives.base import Objective

Weights = Iterable[tuple[str, Tensor]]  # every parameter and buffer of the objective, whole; iterated by all ranks


class Evaluator(ABC):
    """Interface between the training loop and the kind of run. Methods with `Weights` are collective."""

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether `evaluate` is due after step `step`; equal on all ranks."""

    @abstractmethod
    def evaluate(self, step: int, weights: Weights) -> dict[str, float]:
        """Metrics of the weights, for the metrics line of this step; equal on all ranks."""

    @abstractmethod
    def restore(self, lines: Sequence[Mapping[str, float]]) -> None:
        """Restore the state from the metrics lines of a resumed run. First rank only."""

    @property
    @abstractmethod
    def best_step(self) -> int | None:
        """The step whose checkpoint must be kept. The first rank's value is used."""

    @property
    @abstractmethod
    def should_stop(self) -> bool:
        """Whether to stop early. The first rank's value is used."""

    @abstractmethod
    def finish(self, step: int, weights: Weights) -> dict[str, Path]:
        """Write the results of the run. Returns folders by name, on all ranks."""


@final
class Pretraining(Evaluator):
    """Evaluator of pretraining: exports the backbones after the last step."""

    def __init__(self, objective: Objective, folder: Path, origin: Origin) -> None:
        self._objective, self._folder, self._origin = objective, folder, origin

    def is_due(self, step: int) -> bool:
        """See Evaluator: never."""
        return False

    def evaluate(self, step: int, weights: Weights) -> dict[str, float]:
        """See Evaluator: no metrics."""
        return {}

    def restore(self, lines: Sequence[Mapping[str, float]]) -> None:
        """See Evaluator: nothing to restore."""

    @property
    def best_step(self) -> int | None:
        """See Evaluator: None, the last weights are exported."""
        return None

    @property
    def should_stop(self) -> bool:
        """See Evaluator: never early."""
        return False

    def finish(self, step: int, weights: Weights) -> dict[str, Path]:
        """See Evaluator."""
        folder, first = self._folder, world.rank() == 0
        whole = gather_to_cpu(weights, first)
        if first:
            export_backbones(self._objective, whole, folder, self._origin.at(step))
        world.barrier()
        return {name: folder / name for name in self._objective.backbones()}
