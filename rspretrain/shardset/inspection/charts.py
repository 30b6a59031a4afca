"""Band statistics as a table and as a PNG of histograms. Needs neither torch nor a display."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch as Swatch
from numpy.typing import NDArray

from rspretrain.files import atomic
from rspretrain.sensors import ANY_SENSOR, Group
from rspretrain.shardset.inspection.pictures import code_colour, code_name
from rspretrain.shardset.statistics import BandStatistics

Statistics = Mapping[str, Mapping[str, BandStatistics]]  # group -> band -> statistics

# Axis labels by units.
AXIS = {"dn": "reflectance x 10,000", "db": "backscatter, dB", "grey": "grey level", "class": "class code"}
_INK, _FAINT = "#1a1a1a", "#6b6b6b"
# Colours of visible bands: (all pixels, those between the 5th and the 95th percentile).
_COLOURS = {
    **dict.fromkeys(("R", "B04"), ("#e8b4ae", "#b5443a")),
    **dict.fromkeys(("G", "B03"), ("#b5d3b0", "#4a8a40")),
    **dict.fromkeys(("B", "B02"), ("#b1c9e6", "#3b6fae")),
}
_PANEL_INCHES = (2.6, 1.75)
_MOST_CODES = 8  # codes of a map in the table and in its panel


def statistics_lines(groups: Sequence[Group], statistics: Statistics) -> list[str]:
    """A table with one line per band; maps have the shares of their codes."""
    heads = ("mean", "std", "min", "1 %", "50 %", "99 %", "max")
    wide = max(10, *(len(group.name) + 2 for group in groups))
    narrow = max(8, *(len(name) + 2 for group in groups for name in group.bands))
    title = f"{'group':<{wide}}{'band':<{narrow}}{'pixels':>16}"
    lines = [title + "".join(f"{head:>11}" for head in heads) + "  units"]
    for group in groups:
        for name in group.bands:
            found = statistics.get(group.name, {}).get(name)
            head = f"{group.name:<{wide}}{name:<{narrow}}"
            if found is None:
                lines.append(f"{head}{0:>16}  no valid pixel")
            elif group.units == "class":
                lines.append(f"{head}{found.count:>16,}  {_codes_text(name, found)}")
            else:
                at = found.percentiles
                numbers = (found.mean, found.std, found.min, at["1"], at["50"], at["99"], found.max)
                lines.append(
                    f"{head}{found.count:>16,}" + "".join(f"{_short(x):>11}" for x in numbers) + f"  {group.units}"
                )
    return lines


def shares_of_codes(found: BandStatistics) -> list[tuple[int, float]] | None:
    """(code, share) of a map, the most frequent first; None if codes were not counted individually."""
    if found.codes is None:
        return None
    shares = [(int(code), count / found.count) for code, count in found.codes.items()]
    return sorted(shares, key=lambda share: (-share[1], share[0]))


def _codes_text(band: str, found: BandStatistics) -> str:
    shares = shares_of_codes(found)
    if shares is None:
        return f"codes {found.min:.0f} to {found.max:.0f}"
    rest = f", {len(shares) - _MOST_CODES} more" if len(shares) > _MOST_CODES else ""
    return ", ".join(f"{code_name(band, code)} {share:.1%}" for code, share in shares[:_MOST_CODES]) + rest


def draw_statistics(groups: Sequence[Group], statistics: Statistics, path: Path, title: str = "") -> None:
    """Draw a PNG of the histograms of all bands, each with its own axes. ValueError without statistics."""
    shown = [(group, name) for group in groups for name in group.bands if name in statistics.get(group.name, {})]
    if not shown:
        raise ValueError(
            f"No statistics of {[group.name for group in groups]}, expected those of at least one band. Build the "
            "shards from patches with valid pixels, with a split named train or without splits."
        )
    columns = min(4, len(shown))
    lines = math.ceil(len(shown) / columns)
    size = _PANEL_INCHES[0] * max(columns, 2), _PANEL_INCHES[1] * lines + 0.75
    figure = Figure(figsize=size, dpi=150, facecolor="white", layout=ConstrainedLayoutEngine(w_pad=0.11, h_pad=0.05))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(shown) :]:
        axis.axis("off")
    for axis, (group, name) in zip(axes, shown, strict=False):
        _draw_band(axis, group, name, statistics[group.name][name])
    if title:
        figure.suptitle(title, fontsize=10, color=_INK, x=0.01, ha="left")
    _add_legend(figure)
    with atomic(path) as file:
        figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.12)


def _draw_band(axis: Axes, group: Group, name: str, found: BandStatistics) -> None:
    axis.set_title(name, fontsize=9, color=_INK, loc="left", pad=3, fontweight="bold")
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.spines["bottom"].set_color(_FAINT)
    axis.tick_params(labelsize=7, colors=_FAINT, length=2)
    metres = "" if group.gsd_m is None else f" ({group.gsd_m:g} m)"
    shares = shares_of_codes(found) if group.units == "class" else None
    if shares is not None:
        _draw_codes(axis, group, name, shares[:_MOST_CODES])
        axis.set_xlabel(f"share of the pixels{metres}", fontsize=7, color=_FAINT, labelpad=2)
        return
    fill, middle = _COLOURS.get(name, ("#c9d0d8", "#66788c"))
    counts = np.array(found.histogram.counts, dtype=float)
    edges = np.linspace(found.histogram.low, found.histogram.high, len(counts) + 1)
    if found.histogram.low == found.histogram.high:
        edges = edges + np.array([-0.5, 0.5])
    codes = group.units == "class"  # the mean of class codes is meaningless
    axis.stairs(counts, edges, fill=True, color=middle if codes else fill, linewidth=0)
    if not codes:
        _shade(axis, counts, edges, found, middle)
        axis.axvline(found.mean, color=_INK, linewidth=1.0)
        axis.axvline(found.percentiles["50"], color=_INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        text = f"{_short(found.mean)} ± {_short(found.std)}"
        axis.set_title(text, fontsize=7, color=_FAINT, loc="right", pad=3)
    axis.set_xlim(edges[0], edges[-1])
    axis.set_ylim(0, 1.06 * max(counts.max(), 1.0))
    axis.set_yticks([])
    axis.locator_params(axis="x", nbins=5)
    several = f", {edges[1] - edges[0]:.0f} codes per bar" if codes else ""
    meaning = "number in the file" if group.sensor == ANY_SENSOR else AXIS.get(group.units, group.units)
    label = meaning + several + metres
    axis.set_xlabel(label, fontsize=7, color=_FAINT, labelpad=2)


def _draw_codes(axis: Axes, group: Group, band: str, shares: Sequence[tuple[int, float]]) -> None:
    """One bar per code, the most frequent on top, in the colours of the preview."""
    positions = range(len(shares))
    colours = [code_colour(band, code, group.nodata) for code, _ in shares]
    axis.barh(positions, [share for _, share in shares], color=colours, height=0.7, alpha=0.5)  # with text on top
    for position, (code, share) in zip(positions, shares, strict=True):
        text = f" {code_name(band, code)[:24]}  {share:.0%}"
        axis.text(0, position, text, fontsize=6, color=_INK, va="center")
    axis.set_ylim(_MOST_CODES - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axis.set_yticks([])


def _shade(
    axis: Axes, counts: NDArray[np.float64], edges: NDArray[np.float64], found: BandStatistics, colour: str
) -> None:
    """The same histogram, clipped to the 5th to 95th percentile."""
    low, high = found.percentiles["5"], found.percentiles["95"]
    inner = np.unique(np.clip(edges, low, high))
    if len(inner) > 1:
        at = np.searchsorted(edges, (inner[:-1] + inner[1:]) / 2) - 1
        axis.stairs(counts[at], inner, fill=True, color=colour, linewidth=0)


def _add_legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=_INK, linewidth=1.0, label="mean (right: ± standard deviation)"),
        Line2D([], [], color=_INK, linewidth=1.0, linestyle=(0, (1, 1.5)), label="median"),
        Swatch(color="#66788c", linewidth=0, label="5th to 95th percentile"),
        Swatch(color="#c9d0d8", linewidth=0, label="0.1st to 99.9th"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=7, labelcolor=_FAINT)


def _short(number: float) -> str:
    """Format with four digits, or the whole integer part if longer: 1,234 and -12.62 and 0.0521."""
    if number == 0 or abs(number) >= 1e7 or abs(number) < 1e-3:
        return f"{number:.4g}"
    decimals = max(0, 3 - math.floor(math.log10(abs(number))))
    return f"{number:,.{min(decimals, 2 if abs(number) >= 1 else 4)}f}"
