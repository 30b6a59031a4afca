"""Report of a label-fraction ablation: a table, a CSV, and a figure with one curve per method."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import NullLocator

from rspretrain.files import atomic

_INK, _FAINT = "#1a1a1a", "#6b6b6b"
# Okabe and Ito 2008: eight colours for readers with colour blindness, without the yellow, which is too faint for lines.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")


@dataclass(frozen=True)
class CellResult:
    """One run of the ablation and its test metrics."""

    method: str
    fraction: float
    seed: int
    n_train: int
    step: int  # of the weights that were tested
    metrics: Mapping[str, float]  # in [0, 1]

    def as_dict(self) -> dict[str, Any]:
        """The run, for a JSON file."""
        fields = asdict(self)
        return fields | {"figures": fields.pop("metrics")}


@dataclass(frozen=True)
class Point:
    """Mean and standard deviation over the seeds of one method and fraction."""

    method: str
    fraction: float
    num_seeds: int
    n_train: float  # mean
    mean: dict[str, float]
    std: dict[str, float | None]  # with n - 1; None for a single seed


def summarise(cells: Sequence[CellResult]) -> list[Point]:
    """Means and standard deviations over the seeds; methods in the given order, fractions ascending."""
    points = []
    for method in dict.fromkeys(cell.method for cell in cells):
        for fraction in sorted({cell.fraction for cell in cells if cell.method == method}):
            mine = [cell for cell in cells if (cell.method, cell.fraction) == (method, fraction)]
            values = {name: [cell.metrics[name] for cell in mine] for name in mine[0].metrics}
            points.append(Point(
                method,
                fraction,
                len(mine),
                statistics.fmean(cell.n_train for cell in mine),
                {name: statistics.fmean(some) for name, some in values.items()},
                {name: statistics.stdev(some) if len(some) > 1 else None for name, some in values.items()},
            ))  # fmt: skip
    return points


def table(points: Sequence[Point], metric: str) -> str:
    """A text table in percent: one line per method, one column per fraction."""
    fractions = sorted({point.fraction for point in points})
    found = {(point.method, point.fraction): point for point in points}
    methods = list(dict.fromkeys(point.method for point in points))
    width = max(len(name) for name in (*methods, metric)) + 2
    seeds = {point.num_seeds for point in points}
    lines = [
        f"{metric}, percent; mean and standard deviation of {'/'.join(str(number) for number in sorted(seeds))} seeds",
        "",
        "label fraction".ljust(max(width, 17)) + "".join(f"{_percent(one):>14}" for one in fractions),
    ]
    for method in methods:
        cells = [_cell(found.get((method, fraction)), metric) for fraction in fractions]
        lines.append(method.ljust(max(width, 17)) + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(lines)


def _cell(point: Point | None, metric: str) -> str:
    if point is None:
        return "-"
    mean, std = 100 * point.mean[metric], point.std[metric]
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {100 * std:.1f}"


def as_csv(cells: Sequence[CellResult]) -> str:
    """A CSV with one line per run and all metrics."""
    names = list(dict.fromkeys(name for cell in cells for name in cell.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "fraction", "seed", "n_train", "step", *names])
    for cell in cells:
        values = [cell.metrics.get(name, "") for name in names]
        writer.writerow([cell.method, f"{cell.fraction:g}", cell.seed, cell.n_train, cell.step, *values])
    return text.getvalue()


def draw(points: Sequence[Point], metric: str, path: Path, title: str = "") -> Figure:
    """Draw a PNG: means over the label fraction, with a band of one standard deviation on both sides."""
    figure = Figure(figsize=(5.2, 3.6), dpi=150, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.08))
    axes = figure.subplots()
    fractions = sorted({point.fraction for point in points})
    for number, method in enumerate(dict.fromkeys(point.method for point in points)):
        _draw_method(axes, [point for point in points if point.method == method], metric, number)
    axes.set_xscale("log")
    axes.set_xticks(fractions, [_percent(fraction) for fraction in fractions])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("labels used", fontsize=8, color=_FAINT)
    axes.set_ylabel(f"{metric}, percent", fontsize=8, color=_FAINT)
    axes.tick_params(labelsize=7, colors=_FAINT, length=2)
    axes.spines[["right", "top"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.legend(frameon=False, fontsize=7, labelcolor=_INK)
    if title:
        axes.set_title(title, fontsize=9, color=_INK, loc="left")
    with atomic(path) as file:
        figure.savefig(file, format="png")
    return figure


def _draw_method(axes: Axes, points: Sequence[Point], metric: str, number: int) -> None:
    colour = _COLOURS[number % len(_COLOURS)]
    style = "-" if number < len(_COLOURS) else "--"
    at = [point.fraction for point in points]
    means = [100 * point.mean[metric] for point in points]
    stds = [100 * (point.std[metric] or 0.0) for point in points]
    low = [mean - std for mean, std in zip(means, stds, strict=True)]
    high = [mean + std for mean, std in zip(means, stds, strict=True)]
    axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(at, means, style, color=colour, linewidth=1.4, marker="o", markersize=3, label=points[0].method)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"
