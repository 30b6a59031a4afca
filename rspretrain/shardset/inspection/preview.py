"""The content of a shard set as text, and its samples as PNG. Needs neither torch nor a display.

Composites are stretched between the 2nd and 98th percentile of each band; single bands have a colour bar, maps a legend
of the codes that occur. `pictures` selects the pictures of a sample.
"""

import difflib
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch

from rspretrain.archives.raster import to_degrees
from rspretrain.files import atomic
from rspretrain.sensors import Group
from rspretrain.shardset.index import ShardSet
from rspretrain.shardset.inspection.pictures import (
    Picture,
    code_colour,
    code_name,
    code_shares,
    colour_codes,
    limits,
    pictures_of,
)

Metadata = dict[str, Any]

UNITS = {"db": "dB", "dn": "DN", "grey": "grey"}
_INK, _FAINT = "#1a1a1a", "#6b6b6b"
_COLUMNS = 4  # pictures per line
_CODES = 6  # codes in a legend
_LEGEND_INCHES = 0.14  # per line of a legend


def summary(shards: ShardSet) -> str:
    """Archive, samples, splits, groups, labels and shards, as text."""
    manifest = shards.manifest
    size = sum(entry.bytes for entry in manifest.shards)
    named = sum(manifest.splits.values())
    splits = [f"{name} {num:,}" for name, num in manifest.splits.items()]
    if splits and named < manifest.samples:
        splits.append(f"none {manifest.samples - named:,}")
    width = column_width(shards.groups, 10)
    lines = [
        f"{shards.path}: archive {manifest.archive}, {manifest.samples:,} samples, "
        f"{len(manifest.shards)} shards, {size / 1e6:,.1f} MB",
        f"splits: {', '.join(splits) or 'none'}",
        "",
        f"{'group':<{width}}{'sensor':<8}{'dtype':<9}{'pixels':<13}{'metres':<8}{'units':<7}bands",
        *(_group_line(shards, group, width) for group in shards.groups.values()),
    ]
    for name in shards.nomenclatures:
        lines += ["", *_label_lines(shards, name)]
    return "\n".join(lines)


def column_width(texts: Iterable[str], least: int) -> int:
    """Width of a table column in characters, with a gap of two after the longest text."""
    return max(least, *(len(text) + 2 for text in texts))


def _group_line(shards: ShardSet, group: Group, width: int) -> str:
    entry = next(entry for entry in shards.manifest.groups if entry.name == group.name)
    pixels = "x".join(map(str, group.shape)) if group.shape else "<= " + "x".join(map(str, entry.max_shape))
    metres = "?" if group.gsd_m is None else f"{group.gsd_m:g}"
    head = f"{group.name:<{width}}{group.sensor:<8}{group.dtype:<9}{pixels:<13}{metres:<8}{group.units:<7}"
    return head + " ".join(group.bands)


def _label_lines(shards: ShardSet, nomenclature: str) -> list[str]:
    hot = shards.labels(nomenclature)
    known = shards.nomenclatures[nomenclature]
    unlabelled = int((~hot.any(axis=1)).sum())
    kind = "several per sample" if known.multi else "one per sample"
    head = f"labels {nomenclature!r}: {len(known.names)} classes, {kind}, {unlabelled:,} samples without"
    return [head, *(f"{num:>9,}  {name}" for name, num in zip(known.names, hot.sum(axis=0), strict=True))]


def row_of(shards: ShardSet, key: str) -> int:
    """The row of a key. ValueError, with the nearest keys, if there is none."""
    if key not in shards.row_of_key:
        near = difflib.get_close_matches(key, shards.row_of_key, n=3, cutoff=0.0)
        raise ValueError(
            f"{shards.path} has no sample {key!r} among its {len(shards)}; the nearest keys are {', '.join(near)}. "
            "Keys are lower case; characters other than letters, digits, _ and - are replaced by -."
        )
    return shards.row_of_key[key]


def describe(shards: ShardSet, row: int) -> str:
    """One sample as text: position, metadata, and statistics of every band."""
    images, metadata = shards.read(row)
    shard = shards.manifest.shards[int(shards.numbers("shard")[row])].name
    lines = [f"{metadata['key']}  (row {row}, {shard}, byte {int(shards.numbers('offset')[row]):,})"]
    lines += [f"  {name}: {', '.join(labels) or '(none)'}" for name, labels in metadata["labels"].items()]
    lines += [f"  split: {metadata['split'] or '(none)'}", f"  location: {location(metadata) or '(unknown)'}"]
    lines += [f"  {name}: {value}" for name, value in metadata["attributes"].items() if value is not None]
    wide = column_width(shards.groups, 10)
    narrow = column_width((name for group in shards.groups.values() for name in group.bands), 6)
    head = f"  {'group':<{wide}}{'band':<{narrow}}{'pixels':<9}{'min':>11}{'mean':>11}{'max':>11}{'std':>11}  units"
    lines += ["", head]
    for name, group in shards.groups.items():
        for band, pixels in zip(group.bands, images[name], strict=True):
            size = "x".join(map(str, pixels.shape))
            lines.append(f"  {name:<{wide}}{band:<{narrow}}{size:<9}{_numbers(group, band, pixels)}")
    return "\n".join(lines)


def _numbers(group: Group, band: str, pixels: Any) -> str:
    """Statistics of the pixels of a band; for maps, the share of every code."""
    if group.units == "class":
        shares = code_shares(pixels)
        rest = f", {len(shares) - _CODES} more" if len(shares) > _CODES else ""
        return ", ".join(f"{code_name(band, code)} {share:.1%}" for code, share in shares[:_CODES]) + rest
    values = pixels.astype(np.float64)
    return (
        "".join(f"{x:>11.2f}" for x in (values.min(), values.mean(), values.max(), values.std())) + f"  {group.units}"
    )


def location(metadata: Metadata) -> str | None:
    """Country and centre of a sample, in degrees, or in CRS units if they cannot be transformed."""
    country: str | None = metadata["attributes"].get("country")
    if metadata["bounds"] is None:
        return country
    left, bottom, right, top = metadata["bounds"]
    x, y = (left + right) / 2, (bottom + top) / 2
    crs = metadata["crs"] or "unknown CRS"
    known = crs if len(crs) < 20 else "custom CRS"
    lon, lat = to_degrees(crs, np.array([x]), np.array([y]))[0].tolist()
    if math.isfinite(lat):
        where = f"{abs(lat):.4f}° {'N' if lat >= 0 else 'S'} {abs(lon):.4f}° {'E' if lon >= 0 else 'W'}, {known}"
    else:
        where = f"x {x:.6g} y {y:.6g}, {known}"
    return f"{country}, {where}" if country else where


def draw_sample(shards: ShardSet, row: int, path: Path, *, labels: bool = True) -> None:
    """Draw a PNG of one sample: all its pictures, with key, date, location, and optionally labels."""
    images, metadata = shards.read(row)
    shown = pictures_of(list(shards.groups.values()), images)
    columns = min(_COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    width = max(3.1 * columns, 3.6)
    caption = _caption(shards, metadata, int(15 * width), labels)
    legends = sum(_legend_inches(shown[line * columns : (line + 1) * columns], _CODES) for line in range(lines))
    height = 3.2 * lines + legends + 0.3 + 0.22 * (caption.count("\n") + 1)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, picture in zip(axes, shown, strict=False):
        _show(axis, picture, _CODES)
        title = f"{picture.title}\n{' '.join(picture.bands)}"
        axis.set_title(title, fontsize=9, color=_FAINT, linespacing=1.4, loc="left")
    figure.suptitle(caption + "\n", fontsize=10, color=_INK, x=0.01, ha="left", linespacing=1.5)
    _save(figure, path)


def draw_sheet(shards: ShardSet, rows: Sequence[int], path: Path) -> None:
    """Draw a PNG of several samples, one per line (or per cell, if a sample has one picture)."""
    samples = [shards.read(row) for row in rows]
    shown = [_first_of_maps(pictures_of(list(shards.groups.values()), images)) for images, _ in samples]
    per_sample = len(shown[0])
    columns = per_sample if per_sample > 1 else min(_COLUMNS, len(rows))
    lines = math.ceil(len(rows) * per_sample / columns)
    legends = lines * max(_legend_inches(pictures, _CODES - 2) for pictures in shown)
    size = 2.5 * columns, 2.75 * lines + legends
    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for number, ((_, metadata), pictures) in enumerate(zip(samples, shown, strict=True)):
        for place_in_line, picture in enumerate(pictures):
            axis = axes[number * per_sample + place_in_line]
            _show(axis, picture, _CODES - 2)
            first = place_in_line == 0
            wide = picture.pixels.ndim == 3 or picture.group.units == "class"  # others have a colour bar
            text = _short(shards, metadata, 36 if wide else 30) if first else shorten_middle(_title(picture), 42)
            axis.set_title(text, fontsize=7, color=_INK if first else _FAINT, loc="left")
    if per_sample == 1:
        figure.supxlabel(_title(shown[0][0]), fontsize=7, color=_FAINT, x=0.01, ha="left")
    _save(figure, path)


def _title(picture: Picture) -> str:
    return f"{picture.title}: {' '.join(picture.bands)}"


def _first_of_maps(pictures: list[Picture]) -> list[Picture]:
    """Drop all maps but the first of every group: land cover, without the three LCCS layers."""
    return [
        picture for picture in pictures if picture.group.units != "class" or picture.bands[0] == picture.group.bands[0]
    ]


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as file:
        figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.12)


def _show(axis: Axes, picture: Picture, codes: int) -> None:
    pixels, group = picture.pixels, picture.group
    if group.units == "class":
        axis.imshow(colour_codes(pixels, picture.bands[0], group.nodata), interpolation="nearest")
        _add_code_legend(axis, picture, codes)
        return
    if pixels.ndim == 3:
        axis.imshow(pixels, interpolation="nearest")
        return
    low, high = limits(pixels, group.nodata)
    image = axis.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    bar = axis.get_figure(root=True).colorbar(image, ax=axis, shrink=0.8, pad=0.02, aspect=25)  # type: ignore[union-attr]
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, colors=_FAINT, length=2)
    bar.ax.set_title(UNITS.get(group.units, group.units), fontsize=7, color=_FAINT)


def _add_code_legend(axis: Axes, picture: Picture, codes: int) -> None:
    """A legend of the most frequent codes, below the map."""
    (band,) = picture.bands
    shares = code_shares(picture.pixels)
    handles = [
        Swatch(
            facecolor=code_colour(band, code, picture.group.nodata),
            edgecolor=_FAINT,
            linewidth=0.3,
            label=f"{shorten_middle(code_name(band, code), 34)}  {share:.0%}",
        )
        for code, share in shares[:codes]
    ]
    if len(shares) > codes:
        rest = sum(share for _, share in shares[codes:])
        handles.append(Swatch(color="none", label=f"{len(shares) - codes} more  {rest:.0%}"))
    axis.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, -0.01), borderaxespad=0, borderpad=0, frameon=False,
        fontsize=7, labelcolor=_FAINT, handlelength=1, handleheight=0.8, labelspacing=0.25,
    )  # fmt: skip


def _legend_inches(pictures: Sequence[Picture], codes: int) -> float:
    maps = [picture.pixels for picture in pictures if picture.group.units == "class"]
    return max((_LEGEND_INCHES * min(len(code_shares(pixels)), codes + 1) for pixels in maps), default=0.0)


def shorten_middle(text: str, characters: int) -> str:
    """Shorten `text` to a number of characters, in the middle, because the ends of keys differ."""
    if len(text) <= characters:
        return text
    end = (characters - 1) // 2
    return f"{text[: characters - 1 - end]}…{text[len(text) - end :]}"


def _labels(shards: ShardSet, metadata: Metadata) -> list[str]:
    """The labels in one nomenclature: single labels first, then the nomenclature with the fewest classes."""
    known = shards.nomenclatures
    for name in sorted(known, key=lambda name: (known[name].multi, len(known[name].names))):
        if labels := metadata["labels"].get(name):
            return list(labels)
    return []


def _dates(metadata: Metadata) -> str:
    """The known acquisition dates, per sensor."""
    dated = {
        name: str(value)[:10] for name, value in metadata["attributes"].items() if name.endswith("_date") and value
    }
    return ", ".join(f"{name.removesuffix('_date').upper()} {day}" for name, day in dated.items())


def _caption(shards: ShardSet, metadata: Metadata, characters: int, labels: bool) -> str:
    facts = (_dates(metadata), location(metadata), f"split {metadata['split']}" if metadata["split"] else None)
    names = _labels(shards, metadata) if labels else []
    lines = (metadata["key"], ", ".join(names), "  ·  ".join(filter(None, facts)))
    return "\n".join(textwrap.fill(line, characters) for line in lines if line)


def _short(shards: ShardSet, metadata: Metadata, characters: int) -> str:
    """Key and labels in two lines of limited length; labels that do not fit are counted."""
    labels = _labels(shards, metadata)
    for kept in range(len(labels), 0, -1):
        rest = f" + {len(labels) - kept} more" if kept < len(labels) else ""
        text = ", ".join(labels[:kept])
        if kept == 1 or len(text + rest) <= characters:
            break
    names = shorten_middle(text, characters - len(rest)) + rest if labels else ""
    return f"{shorten_middle(metadata['key'], characters)}\n{names}".rstrip("\n")
