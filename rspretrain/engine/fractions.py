"""The label-fraction ablation: one fine-tuning run per method, label fraction and seed, in sequence.

A cell is an ordinary run in run.dir/<method>/<fraction>/<seed>. Complete cells are skipped and interrupted cells
resume, so the same command starts and continues an ablation, on any number of ranks.
"""

import gc
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from rspretrain import config
from rspretrain.config import ConfigError, FinetuneSettings
from rspretrain.engine.finetune import prepare_finetune
from rspretrain.engine.trainer import LogLine, StopRequest, train
from rspretrain.evaluation.metrics import main_metric
from rspretrain.files import read_json, write_atomically, write_json
from rspretrain.finetuning.fraction_report import CellResult, as_csv, draw, summarise, table
from rspretrain.nn.tuning import TuneSettings
from rspretrain.world import World, max_over_ranks, sum_over_ranks

PRETRAINED = "pretrained"  # the unchanged configuration
_NEW, _STARTED, _FINISHED = range(3)


@dataclass(frozen=True)
class Method:
    """A compared method: the configuration with overrides."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of the ablation."""

    method: Method
    fraction: float
    number: int  # index of the seed: 0, 1, …
    settings: FinetuneSettings


def parse_method(text: str) -> Method:
    """Parse `pretrained`, a value of tune.mode, or `NAME: section.key=value …`. ConfigError for other texts."""
    name, colon, rest = text.partition(":")
    modes = get_args(TuneSettings.model_fields["mode"].annotation)
    if colon and name.replace("-", "").replace("_", "").isalnum():
        return Method(name, tuple(shlex.split(rest)))
    if not colon and name in (PRETRAINED, *modes):
        return Method(name, () if name == PRETRAINED else (f"tune={{mode: {name}}}",))
    raise ConfigError(
        f"--methods: got {text!r}, expected {PRETRAINED} (the unchanged configuration), one of {', '.join(modes)}, or "
        "a new name with overrides. Write, for example, 'early: network.fusion=early tune.mode=scratch'."
    )


def plan(
    path: Path, overrides: Sequence[str], methods: Sequence[Method], fractions: Sequence[float], seeds: int
) -> list[Cell]:
    """All cells, small fractions first. ConfigError for duplicates and invalid configurations."""
    for option, given in (("--methods", [method.name for method in methods]), ("--fractions", fractions)):
        if len(set(given)) < len(given):
            raise ConfigError(f"{option}: got {given}, expected each value once. Remove the duplicates.")
    if seeds < 1:
        raise ConfigError(f"--seeds: got {seeds}, expected at least 1 run per method and fraction. Set --seeds 3.")
    cells = []
    for fraction in sorted(fractions):
        for number in range(seeds):
            for method in methods:
                settings = config.load_finetune(path, [*overrides, *method.overrides, f"labels.fraction={fraction}"])
                cells.append(Cell(method, fraction, number, _cell_settings(settings, method.name, fraction, number)))
    return cells


def _cell_settings(settings: FinetuneSettings, method: str, fraction: float, number: int) -> FinetuneSettings:
    """Settings with the cell's folder and seeds, which change the labelled images, initial weights and batch order."""
    run, labels = settings.run, settings.labels
    path = f"{method}/{fraction:g}/{run.seed + number}"
    own = {"dir": run.dir / path, "seed": run.seed + number, "name": f"{run.name or run.dir.name}/{path}"}
    return settings.model_copy(
        update={
            "run": run.model_copy(update=own),
            "labels": labels.model_copy(update={"seed": labels.seed + number}),
        }
    )


def check_cells(cells: Sequence[Cell], world: World, deepspeed_launcher: bool) -> None:
    """Build one job per method, with the fewest labels, to find errors before training. ValueError as in those jobs."""
    for cell in {cell.method.name: cell for cell in reversed(cells)}.values():
        prepare_finetune(cell.settings, world, deepspeed_launcher)


def run_cells(cells: Sequence[Cell], world: World, deepspeed_launcher: bool, log: LogLine) -> bool:
    """Run all incomplete cells; called by all ranks. False if a signal requested a stop.

    ConfigError if a folder holds a run of another configuration.
    """
    with StopRequest() as stop:
        for position, cell in enumerate(cells, 1):
            if max_over_ranks(torch.tensor(int(stop.received is not None))):
                return False
            title = f"[{position}/{len(cells)}] {cell.method.name}, {100 * cell.fraction:g} % of the labels"
            if not _run_cell(cell, world, deepspeed_launcher, title, log, stop):
                return False
            gc.collect()  # jobs have reference cycles that would keep the network on the device
    return True


def _run_cell(cell: Cell, world: World, deepspeed_launcher: bool, title: str, log: LogLine, stop: StopRequest) -> bool:
    """Run a cell unless it is complete; whether it is complete now."""
    state = _state(cell.settings.run.dir, world)
    job = prepare_finetune(cell.settings, world, deepspeed_launcher)
    if state == _FINISHED:
        config.check_same(cell.settings.run.dir / "config.yaml", job.settings)
        return True
    if world.is_first:
        log(f"{title}, seed {cell.settings.run.seed}{', resumed' if state == _STARTED else ''}")
    return train(job, resume=state == _STARTED, log=log, stop=stop).is_complete


def _state(folder: Path, world: World) -> int:
    """The state of a run on the first rank's disk; the same on all ranks."""
    state = 0
    if world.is_first and folder.is_dir() and any(folder.iterdir()):
        state = _FINISHED if _is_finished(folder) else _STARTED
    return int(sum_over_ranks(torch.tensor(state)))


def _is_finished(folder: Path) -> bool:
    summary = folder / "summary.json"
    return (folder / "results.json").is_file() and summary.is_file() and read_json(summary)["complete"]


def collect(cells: Sequence[Cell]) -> list[CellResult]:
    """Results of the complete cells; call on the first rank."""
    found = []
    for cell in cells:
        folder = cell.settings.run.dir
        if _is_finished(folder):
            results = read_json(folder / "results.json")
            metrics = {name: value for name, value in results["test"].items() if isinstance(value, float)}
            found.append(CellResult(
                cell.method.name, cell.fraction, cell.settings.run.seed, results["n_train"], results["step"], metrics
            ))  # fmt: skip
    return found


def write_report(cells: Sequence[Cell], found: Sequence[CellResult], folder: Path) -> str:
    """Write fractions.csv, .json and .png of the complete cells; returns a text table. Call on the first rank.

    Table and figure show validation.metric or, without one, the default metric.
    """
    metric = cells[0].settings.validation.metric or main_metric("ap_macro" in found[0].metrics)
    points = summarise(found)
    write_atomically(folder / "fractions.csv", as_csv(found).encode())
    content = {
        "metric": metric,
        "methods": {cell.method.name: list(cell.method.overrides) for cell in cells},
        "planned": len(cells),
        "runs": [one.as_dict() for one in found],
        "points": [asdict(point) for point in points],
    }
    write_json(folder / "fractions.json", content)
    draw(points, metric, folder / "fractions.png", folder.name)
    return table(points, metric)
