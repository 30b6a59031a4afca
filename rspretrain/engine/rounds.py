"""The fine-tuning runs of a label-budget loop on disk (run.dir/rounds/00, 01, …) and their joint report.

The first rank reads and writes the state. Weights are read by all ranks, from a shared file system.
"""

import csv
import io
import shutil
from pathlib import Path
from typing import Any, final

from torch import Tensor

from rspretrain.active_learning.curves import CURVE_METRICS, RESULTS_FILE, curves_of_run, draw_curves
from rspretrain.active_learning.labelling_task import LabellingTask
from rspretrain.active_learning.pool import LabelPool
from rspretrain.config import ActiveSettings
from rspretrain.engine.checkpoint import Checkpoints
from rspretrain.evaluation.metrics import metric_names
from rspretrain.files import read_json, write_atomically, write_json

Tree = dict[str, Any]


@final
class Rounds:
    """The rounds of one loop."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def folder(self, number: int) -> Path:
        """The run.dir of a round."""
        return self._run_dir / "rounds" / f"{number:02d}"

    def has_started(self, number: int) -> bool:
        """Whether a round's run has written any file."""
        return self.folder(number).is_dir() and any(self.folder(number).iterdir())

    def complete(self) -> list[int]:
        """Numbers of the complete rounds, ascending."""
        found = {path.parent: read_json(path) for path in self._run_dir.glob("rounds/*/summary.json")}
        return sorted(int(folder.name) for folder, summary in found.items() if summary["complete"])

    def results(self, number: int) -> Tree:
        """results.json of a complete round."""
        return read_json(self.folder(number) / "results.json")

    def weights(self, number: int) -> dict[str, Tensor]:
        """The tested weights of a complete round. They are deleted when the next round is complete."""
        return self._checkpoints(number).weights(self.results(number)["step"])

    def prune(self, number: int) -> None:
        """After round `number`, keep its tested weights for the next round; delete the weights of earlier rounds."""
        for before in range(number):
            for part in ("checkpoints", "export"):
                shutil.rmtree(self.folder(before) / part, ignore_errors=True)
        self._checkpoints(number).keep_only(self.results(number)["step"])

    def _checkpoints(self, number: int) -> Checkpoints:
        return Checkpoints(self.folder(number) / "checkpoints", 1)

    def report(self, settings: ActiveSettings, task: LabellingTask, pool: LabelPool) -> None:
        """Write active.json, .csv and .png of all complete rounds."""
        summary = self.summary(settings, task, pool)
        write_json(self._run_dir / RESULTS_FILE, summary)
        names = ["round", "labels", *metric_names(summary["multi"])]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([names, *([point[name] for name in names] for point in summary["rounds"])])
        write_atomically(self._run_dir / "active.csv", text.getvalue().encode())
        note = "band: 95 % bootstrap interval over the test images"
        draw_curves(curves_of_run(summary), self._run_dir / "active.png", summary["name"], note)

    def summary(self, settings: ActiveSettings, task: LabellingTask, pool: LabelPool) -> Tree:
        """The loop and its complete rounds, for a JSON file."""
        points = [self._point(number, task.classes.multi) for number in self.complete()]
        metrics, queried = CURVE_METRICS[task.classes.multi], [point for point in points if point["round"]]
        return {
            "name": settings.run.name or settings.run.dir.name,
            "query": settings.query.name,
            "warm_start": settings.warm_start,
            "seed": settings.budget.seed,
            "scenario": settings.budget.scenario,
            "removed": {name: len(keys) for name, keys in pool.removed.items()},
            "missing": pool.missing,
            "nomenclature": task.nomenclature,
            "classes": list(task.classes.names),
            "multi": task.classes.multi,
            "num_pool": len(pool.split.pool),
            "num_val": len(pool.split.val),
            "num_test": len(pool.split.test),
            "rounds": points,
            "mean_after_queries": {name: sum(p[name] for p in queried) / len(queried) for name in metrics if queried},
        }

    def _point(self, number: int, multi: bool) -> Tree:
        """One point of the curve: all scalar metrics and their confidence intervals."""
        found, names = self.results(number), metric_names(multi)
        intervals = {name: found["intervals_95"][name] for name in names if name in found["intervals_95"]}
        metrics = {name: found["test"][name] for name in names}
        return {"round": number, "labels": found["n_train"], **metrics, "intervals_95": intervals}
