"""The evaluator of fine-tuning: validation during training, early stopping, the test, and the export of the classifier.

Each evaluation copies the full weights into a separate float32 network in eval mode, and each rank scores its part of
the images once. So scores depend on the weights only, not on the strategy or the number of ranks, and equal those of
`rspretrain predict`. The best weights in validation are kept as an ordinary checkpoint.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from rspretrain import world
from rspretrain.arrays import Rows
from rspretrain.config import FinetuneSettings
from rspretrain.engine.checkpoint import Checkpoints
from rspretrain.engine.evaluator import Evaluator, Weights
from rspretrain.evaluation.bootstrap import confidence_intervals
from rspretrain.evaluation.labels import FinetuneData
from rspretrain.evaluation.metrics import Scores, compute_scores, main_metric, summary_metrics
from rspretrain.evaluation.predict import predict
from rspretrain.files import write_json
from rspretrain.finetuning.supervised import Supervised
from rspretrain.nn.classifier_files import LabelSpec, export_classifier
from rspretrain.nn.tuning import merge_
from rspretrain.shardset.index import ShardSet


@dataclass(frozen=True)
class Task:
    """The shard set, the samples and their labels."""

    shards: ShardSet
    data: FinetuneData
    hot: Tensor  # multi-hot labels [rows of the shard set, K] bool


@final
class Classification(Evaluator):
    """Evaluates, stops and exports a fine-tuning run."""

    def __init__(
        self,
        settings: FinetuneSettings,
        task: Task,
        objective: Supervised,
        initial: Mapping[str, str],
        *,
        every: int,
        total_steps: int,
        device: torch.device,
    ) -> None:
        """`initial`: backbone -> origin of its weights. Validation runs every `every` steps and after the last step."""
        self._settings, self._task, self._initial = settings, task, dict(initial)
        self._every, self._total = every, total_steps
        self._network = copy.deepcopy(objective).eval().requires_grad_(False).to(device)
        self._metric = settings.validation.metric or main_metric(task.data.multi)
        self._history: list[tuple[int, float]] = []  # (step, score) of each validation

    def is_due(self, step: int) -> bool:
        """See Evaluator."""
        return bool(len(self._task.data.val)) and (step % self._every == 0 or step == self._total)

    def evaluate(self, step: int, weights: Weights) -> dict[str, float]:
        """See Evaluator."""
        self._load(weights)
        scores, _ = self._score(self._task.data.val)
        self._remember(step, getattr(scores, self._metric))
        return {
            f"val/{name}": value for name, value in (*summary_metrics(scores), (self._metric, self._history[-1][1]))
        }

    def restore(self, lines: Sequence[Mapping[str, float]]) -> None:
        """See Evaluator."""
        for line in lines:
            if (score := line.get(f"val/{self._metric}")) is not None:
                self._remember(int(line["step"]), score)

    def _remember(self, step: int, score: float) -> None:
        self._history.append((step, score))

    @property
    def best_step(self) -> int | None:
        """The best step so far, the earliest of equals; None if the last weights are to be kept."""
        if self._settings.validation.keep == "last" or not self._history:
            return None
        return max(self._history, key=lambda one: (one[1], -one[0]))[0]

    @property
    def should_stop(self) -> bool:
        """Whether `validation.patience` is exhausted."""
        patience = self._settings.validation.patience
        if patience is None or not self._history:
            return False
        best = max(range(len(self._history)), key=lambda i: (self._history[i][1], -i))
        return len(self._history) - 1 - best >= patience

    def finish(self, step: int, weights: Weights) -> dict[str, Path]:
        """Test the selected weights, write results.json and export/classifier."""
        # Only the first rank restores the history of a resumed run.
        chosen = int(world.max_over_ranks(torch.tensor(self.best_step or 0)))
        run_dir = self._settings.run.dir
        self._load(weights if not chosen else Checkpoints(run_dir / "checkpoints", 1).weights(chosen).items())
        results = self._results(chosen or step)
        if world.rank() == 0:
            write_json(run_dir / "results.json", results)
            merge_(self._network.classifier)
            self._export(chosen or step, results)
        world.barrier()
        return {"classifier": run_dir / "export/classifier"}

    @torch.no_grad()
    def _load(self, weights: Weights) -> None:
        """Copy full weights into the evaluation network."""
        own = self._network.state_dict()
        for name, tensor in weights:
            own[name].copy_(tensor)

    def _score(self, rows: Rows) -> tuple[Scores, Tensor]:
        """Scores and probabilities [N K] of samples, on all ranks."""
        views = self._network.views
        probabilities = predict(
            self._network.classifier,
            views.sensor_inputs(),
            self._task.shards,
            rows,
            multi=self._task.data.multi,
            crop_px=self._settings.views.crop_px,
            device=next(self._network.parameters()).device,
        )
        return compute_scores(
            probabilities, self._task.hot[torch.from_numpy(rows)], self._task.data.multi
        ), probabilities

    def _results(self, step: int) -> dict[str, Any]:
        """The content of results.json; the same on all ranks."""
        data, labels = self._task.data, self._settings.labels
        scores, probabilities = self._score(data.test)
        hot = self._task.hot[torch.from_numpy(data.test)]
        targets = hot if data.multi else hot.long().argmax(dim=1)
        resamples = self._settings.validation.resamples
        seed = self._settings.run.seed
        intervals = confidence_intervals(probabilities, targets, seed=seed, resamples=resamples) if resamples else {}
        return {
            "step": step,
            "nomenclature": data.nomenclature,
            "classes": list(data.classes),
            "multi": data.multi,
            "fraction": labels.fraction,
            "n_train": len(data.train),
            "n_draws_per_epoch": len(data.epoch_rows),
            "n_val": len(data.val),
            "n_test": len(data.test),
            "train_images_per_class": self._task.hot[torch.from_numpy(data.train)].sum(dim=0).tolist(),
            "validation": [{"step": at, self._metric: value} for at, value in self._history],
            "test": asdict(scores),
            "intervals_95": json.loads(json.dumps(intervals, default=asdict)),
        }

    def _export(self, step: int, results: dict[str, Any]) -> None:
        """Export the tested classifier, with merged LoRA weights, for `rspretrain predict`."""
        settings, data = self._settings, self._task.data
        provenance = {
            "run": settings.run.name or settings.run.dir.name,
            "step": step,
            "seed": settings.run.seed,
            "tuned": settings.tune.mode,
            "backbones": self._initial,
            "shards": str(self._task.shards.path),
            "shards_sha256": self._task.shards.manifest_sha256,
            "labels": len(data.train),
            "results": {name: value for name, value in results["test"].items() if isinstance(value, float)},
        }
        export_classifier(
            self._network.classifier,
            settings.classifier,
            self._network.views.sensor_inputs(),
            LabelSpec(data.nomenclature, data.classes, data.multi),
            settings.run.dir / "export/classifier",
            provenance,
            crop_px=settings.views.crop_px,
        )
