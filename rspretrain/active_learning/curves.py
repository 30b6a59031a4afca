"""Learning curves: metrics over the number of labels, compared across runs and query functions.

A band is the 95 % confidence interval of the mean over runs (Student's t). For a single run it is the bootstrap
interval over the test images.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from rspretrain.evaluation.metrics import METRIC_TITLES
from rspretrain.files import atomic, read_json

RESULTS_FILE = "active.json"  # in a loop's run.dir
CURVE_METRICS = {True: ("f1_micro", "f1_macro", "ap_macro"), False: ("top1", "average_accuracy")}  # by `multi`
RUNS_NOTE = "band: 95 % interval of the mean over runs (Student's t)"  # a note for `draw_curves`
_COLOURS = ("#b5443a", "#3b6fae", "#4a8a40", "#8a5fa8", "#c08a2e", "#4a9a9a")
_INK, _FAINT = "#1a1a1a", "#6b6b6b"


@dataclass(frozen=True)
class Curve:
    """One metric over the number of labels."""

    labels: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]  # equal to `mean` for one run without intervals
    high: tuple[float, ...]
    num_runs: tuple[int, ...]


Run = Mapping[str, Any]  # content of active.json
Row = dict[str, Any]
Curves = dict[str, dict[str, Curve]]  # metric -> method -> curve


def read_run(folder: Path) -> dict[str, Any]:
    """Read a loop's active.json. ValueError if it is unreadable or has no complete round."""
    try:
        run = read_json(folder / RESULTS_FILE)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} has no readable {RESULTS_FILE} ({type(error).__name__}); expected the run.dir of a label-budget "
            "loop. Name folders that `rspretrain active-learning` wrote."
        ) from None
    if not run["rounds"]:
        raise ValueError(f"{folder} has no complete round, expected at least one. Continue the loop with --resume.")
    return run


def method_names(runs: Sequence[Run]) -> list[str]:
    """The name of each run in a comparison: its query function, and other settings that differ among the runs.

    ValueError for runs with different classes or different numbers of test images.
    """
    for key in ("classes", "num_test"):
        if len({json.dumps(run[key]) for run in runs}) > 1:
            values = "; ".join(f"{run['name']}: {run[key]}" for run in runs)
            raise ValueError(
                f"The runs differ in {key} ({values}); expected equal values. Compare runs of one task at a time."
            )
    several = [key for key in ("scenario", "warm_start") if len({run[key] for run in runs}) > 1]
    words = {"scenario": "scenario {}".format, "warm_start": lambda warm: "warm start" if warm else "cold start"}
    return [", ".join([run["query"], *(words[key](run[key]) for key in several)]) for run in runs]


def compare(runs: Sequence[Run]) -> Curves:
    """The mean over the runs of each method, at each number of labels that one of its runs has."""
    metrics, methods = CURVE_METRICS[runs[0]["multi"]], method_names(runs)
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for run, method in zip(runs, methods, strict=True):
        for point in run["rounds"]:
            for metric in metrics:
                values.setdefault((metric, method), {}).setdefault(point["labels"], []).append(point[metric])
    return {metric: {method: _curve(values[metric, method]) for method in dict.fromkeys(methods)} for metric in metrics}


def curves_of_run(run: Run) -> Curves:
    """The curves of one run, with the intervals over its test images."""
    curves: Curves = {}
    for metric in CURVE_METRICS[run["multi"]]:
        points = [(p["labels"], p[metric], p["intervals_95"].get(metric)) for p in run["rounds"]]
        limits = [(band["low"], band["high"]) if band else (value, value) for _, value, band in points]
        low, high = zip(*limits, strict=True)
        labels, mean = [p[0] for p in points], [p[1] for p in points]
        curves[metric] = {run["query"]: Curve(tuple(labels), tuple(mean), low, high, (1,) * len(points))}
    return curves


def _curve(values: Mapping[int, list[float]]) -> Curve:
    labels = sorted(values)
    means = [float(np.mean(values[n])) for n in labels]
    halves = [half_width(values[n]) for n in labels]
    low = tuple(mean - half for mean, half in zip(means, halves, strict=True))
    high = tuple(mean + half for mean, half in zip(means, halves, strict=True))
    return Curve(tuple(labels), tuple(means), low, high, tuple(len(values[n]) for n in labels))


def half_width(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean (Student's t); 0 for a single value, which has no interval."""
    num = len(values)
    return float(stdtrit(num - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(num)) if num > 1 else 0.0


def means(runs: Sequence[Run], at: int | None = None) -> list[Row]:
    """The mean of each method over its runs: at `at` labels, or over the rounds after a query that all runs have.

    ValueError if a run has no round with `at` labels.
    """
    common = set.intersection(*(_compared(run, at) for run in runs))
    if at is not None and not common:
        reached = {run["name"]: [point["labels"] for point in run["rounds"]] for run in runs}
        raise ValueError(
            f"Not all runs have a round with {at} labels, expected a number of labels that all runs have: {reached}. "
            "Choose another number, or continue the shorter runs with --resume."
        )
    found: dict[tuple[str, str], list[float]] = {}
    for run, method in zip(runs, method_names(runs), strict=True):
        points = [point for point in run["rounds"] if point["labels"] in common]
        for metric in CURVE_METRICS[run["multi"]] if points else ():
            found.setdefault((method, metric), []).append(float(np.mean([point[metric] for point in points])))
    return _rows(found)


def _compared(run: Run, at: int | None) -> set[int]:
    """Numbers of labels of the compared rounds: all rounds after a query, or the round with `at` labels."""
    return {point["labels"] for point in run["rounds"] if (point["round"] if at is None else point["labels"] == at)}


def margins(runs: Sequence[Run], at: int | None = None, baseline: str = "random") -> list[Row]:
    """Paired differences to the baseline run of the same seed: at `at` labels, or over the rounds after a query.

    Runs of one seed share split, first images and initial weights, so most of the variation between seeds cancels.
    """
    named = list(zip(runs, method_names(runs), strict=True))
    base = {(_variant(run, method), run["seed"]): run for run, method in named if run["query"] == baseline}
    found: dict[tuple[str, str], list[float]] = {}
    for run, method in named:
        other = base.get((_variant(run, method), run["seed"]))
        if other is None or run["query"] == baseline:
            continue
        before = {point["labels"]: point for point in other["rounds"]}
        compared = _compared(run, at) & before.keys()
        pairs = [(p, before[p["labels"]]) for p in run["rounds"] if p["labels"] in compared]
        for metric in CURVE_METRICS[run["multi"]] if pairs else ():
            found.setdefault((method, metric), []).append(float(np.mean([a[metric] - b[metric] for a, b in pairs])))
    return _rows(found)


def _variant(run: Run, method: str) -> str:
    """The part of a method's name after the query function."""
    return method.removeprefix(str(run["query"]))


def _rows(found: Mapping[tuple[str, str], list[float]]) -> list[Row]:
    return [
        {
            "method": method,
            "metric": metric,
            "mean": float(np.mean(values)),
            "half_width": half_width(values),
            "num": len(values),
        }
        for (method, metric), values in found.items()
    ]


def curves_csv(curves: Curves) -> str:
    """A CSV with one row per method and number of labels: mean, low and high of each metric, as fractions."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(
        ["method", "labels", "num_runs", *(f"{name}{end}" for name in curves for end in ("", "_low", "_high"))]
    )
    for method, first in next(iter(curves.values())).items():
        for index, labels in enumerate(first.labels):
            mine = [curves[name][method] for name in curves]
            cells = [f"{value:.6f}" for c in mine for value in (c.mean[index], c.low[index], c.high[index])]
            table.writerow([method, labels, first.num_runs[index], *cells])
    return text.getvalue()


def draw_curves(curves: Curves, path: Path, title: str, note: str) -> None:
    """Draw a PNG with one panel per metric and one line with a band per method; `note` explains the band."""
    inches = 3.5 * len(curves)
    figure = Figure(figsize=(inches, 3.4), dpi=150, facecolor="white")
    figure.subplots_adjust(left=0.45 / inches, right=1 - 0.15 / inches, top=0.83, bottom=0.2, wspace=0.16)
    for axis, (name, by_method) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axis.set_title(f"{METRIC_TITLES[name]}, %", fontsize=9, color=_INK, loc="left", pad=3, fontweight="bold")
        axis.spines[["right", "top"]].set_visible(False)
        axis.tick_params(labelsize=7, colors=_FAINT, length=2)
        axis.set_xlabel("labelled images", fontsize=7, color=_FAINT, labelpad=2)
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axis.locator_params(axis="x", integer=True)
        for number, (method, curve) in enumerate(by_method.items()):
            _draw_curve(axis, curve, method, _COLOURS[number % len(_COLOURS)])
    axis.legend(loc="lower right", frameon=False, fontsize=7, labelcolor=_INK)
    figure.text(0.1 / inches, 0.93, title, fontsize=10, color=_INK)
    figure.text(0.1 / inches, 0.03, note, fontsize=7, color=_FAINT)
    with atomic(path) as file:
        figure.savefig(file, format="png")


def _draw_curve(axis: Axes, curve: Curve, method: str, colour: str) -> None:
    low, mean, high = (100 * np.array(each) for each in (curve.low, curve.mean, curve.high))
    label = f"{method}, {max(curve.num_runs)} runs" if max(curve.num_runs) > 1 else method
    axis.plot(curve.labels, mean, color=colour, linewidth=1.4, marker="o", markersize=2.5, label=label)
    axis.fill_between(curve.labels, low, high, color=colour, alpha=0.15, linewidth=0)
