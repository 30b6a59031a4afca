"""What a run is for: what is found out about its weights on the way, and what it writes in the end."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import final

from torch import Tensor

from rspretrain import world
from rspretrain.config import RunSettings
from rspretrain.engine.checkpoint import gather
from rspretrain.engine.export import export_all, provenance
from rspretrain.objectives.base import Objective

Weights = Iterable[tuple[str, Tensor]]  # every parameter and buffer of the objective, whole; all ranks iterate together


class Evaluator(ABC):
    """The loop asks; pretraining and fine-tuning answer differently. Whatever gets `Weights` is called by all ranks."""

    @abstractmethod
    def is_due(self, step: int) -> bool:
        """Whether `evaluate` is due after step number `step`; the same on all ranks."""

    @abstractmethod
    def evaluate(self, step: int, weights: Weights) -> dict[str, float]:
        """Numbers for the line of metrics of this step; the same on all ranks."""

    @abstractmethod
    def restore(self, lines: Sequence[Mapping[str, float]]) -> None:
        """Take up what the lines of a resumed run say of `evaluate`; on the first rank, whose word counts."""

    @property
    @abstractmethod
    def best_step(self) -> int | None:
        """The step whose checkpoint must be there in the end; on the first rank, whose word counts."""

    @property
    @abstractmethod
    def should_stop(self) -> bool:
        """Whether further steps are of no use; on the first rank, whose word counts."""

    @abstractmethod
    def finish(self, step: int, weights: Weights) -> dict[str, Path]:
        """Write what the run exists for; the folders by name, on all ranks."""


@final
class Pretraining(Evaluator):
    """Backbones, after all steps."""

    def __init__(self, settings: RunSettings, objective: Objective, shards_sha256: str) -> None:
        self._settings, self._objective, self._shards_sha256 = settings, objective, shards_sha256

    def is_due(self, step: int) -> bool:
        """Never."""
        return False

    def evaluate(self, step: int, weights: Weights) -> dict[str, float]:
        """Nothing."""
        return {}

    def restore(self, lines: Sequence[Mapping[str, float]]) -> None:
        """Nothing to take up."""

    @property
    def best_step(self) -> int | None:
        """None: the last weights are what the run exists for."""
        return None

    @property
    def should_stop(self) -> bool:
        """Only by all steps."""
        return False

    def finish(self, step: int, weights: Weights) -> dict[str, Path]:
        """See Evaluator."""
        folder, first = self._settings.run.dir / "export", world.rank() == 0
        whole = gather(weights, first)
        if first:
            export_all(self._objective, whole, folder, provenance(self._settings, step, self._shards_sha256))
        world.barrier()
        return {name: folder / name for name in self._objective.backbones()}
