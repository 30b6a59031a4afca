"""The fine-tuning runs of a label-budget loop on the disk: run.dir/rounds/00, 01 … and what all of them tell together.

The first rank's disk counts; what others read (weights) lies on the file system that all ranks share.
"""

import csv
import io
import shutil
from pathlib import Path
from typing import Any, final

from torch import Tensor

from rspretrain.active_learning.curves import FILE, SHOWN, draw_curves, single
from rspretrain.active_learning.labelling_task import LabellingTask
from rspretrain.active_learning.pool import LabelPool
from rspretrain.config import ActiveSettings
from rspretrain.engine.checkpoint import Checkpoints
from rspretrain.evaluation.metrics import metric_names
from rspretrain.files import read_json, write_atomically, write_json

Tree = dict[str, Any]


@final
class Rounds:
    """See the module."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir

    def folder(self, number: int) -> Path:
        """Of a round's run."""
        return self._run_dir / "rounds" / f"{number:02d}"

    def has_begun(self, number: int) -> bool:
        """Whether a round's run has written anything."""
        return self.folder(number).is_dir() and any(self.folder(number).iterdir())

    def complete(self) -> list[int]:
        """Numbers of the rounds that came to their end, ascending."""
        found = {path.parent: read_json(path) for path in self._run_dir.glob("rounds/*/summary.json")}
        return sorted(int(folder.name) for folder, summary in found.items() if summary["complete"])

    def results(self, number: int) -> Tree:
        """results.json of a complete round."""
        return read_json(self.folder(number) / "results.json")

    def weights(self, number: int) -> dict[str, Tensor]:
        """The weights that a complete round was tested with, until the next one is complete."""
        return self._checkpoints(number).weights(self.results(number)["step"])

    def prune(self, number: int) -> None:
        """After round `number`: keep of it the weights that the next one needs, and of those before their records."""
        for before in range(number):
            for part in ("checkpoints", "export"):
                shutil.rmtree(self.folder(before) / part, ignore_errors=True)
        self._checkpoints(number).keep_only(self.results(number)["step"])

    def _checkpoints(self, number: int) -> Checkpoints:
        return Checkpoints(self.folder(number) / "checkpoints", 1)

    def report(self, settings: ActiveSettings, campaign: LabellingTask, pool: LabelPool) -> None:
        """Write active.json, .csv and .png of all complete rounds."""
        told = self.summary(settings, campaign, pool)
        write_json(self._run_dir / FILE, told)
        names = ["round", "labels", *metric_names(told["multi"])]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([names, *([point[name] for name in names] for point in told["rounds"])])
        write_atomically(self._run_dir / "active.csv", text.getvalue().encode())
        note = "band: 95 % bootstrap interval over the test images"
        draw_curves(single(told), self._run_dir / "active.png", told["name"], note)

    def summary(self, settings: ActiveSettings, campaign: LabellingTask, pool: LabelPool) -> Tree:
        """The loop and its complete rounds, for a JSON file."""
        points = [self._point(number, campaign.classes.multi) for number in self.complete()]
        shown, queried = SHOWN[campaign.classes.multi], [point for point in points if point["round"]]
        return {
            "name": settings.run.name or settings.run.dir.name,
            "query": settings.query.name,
            "warm_start": settings.warm_start,
            "seed": settings.budget.seed,
            "scenario": settings.budget.scenario,
            "removed": {name: len(keys) for name, keys in pool.removed.items()},
            "missing": pool.missing,
            "nomenclature": campaign.nomenclature,
            "classes": list(campaign.classes.names),
            "multi": campaign.classes.multi,
            "num_pool": len(pool.split.pool),
            "num_val": len(pool.split.val),
            "num_test": len(pool.split.test),
            "rounds": points,
            "mean_after_queries": {name: sum(p[name] for p in queried) / len(queried) for name in shown if queried},
        }

    def _point(self, number: int, multi: bool) -> Tree:
        """One point of the curve: every figure that is one number, and its interval."""
        found, names = self.results(number), metric_names(multi)
        sure = {name: found["intervals_95"][name] for name in names if name in found["intervals_95"]}
        figure = {name: found["test"][name] for name in names}
        return {"round": number, "labels": found["n_train"], **figure, "intervals_95": sure}
