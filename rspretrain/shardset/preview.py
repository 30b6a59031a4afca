"""What is inside a shard set, for a person: numbers as text, samples as pictures. No torch, no display.

True colour is stretched between the 2nd and 98th percentile of each band; backscatter is shown in dB with its scale.
"""

import difflib
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rspretrain.sensors import Group
from rspretrain.shardset.index import ShardSet

Images = dict[str, NDArray[Any]]
Metadata = dict[str, Any]

# Three bands as red, green, blue. False colour shows plants in red: the near infrared is what they reflect most.
COMPOSITES: tuple[tuple[str, tuple[str, str, str]], ...] = (
    ("true colour", ("R", "G", "B")),
    ("true colour", ("B04", "B03", "B02")),
    ("false colour, near infrared", ("B08", "B04", "B03")),
)
_INK, _FAINT = "#1a1a1a", "#6b6b6b"


def summary(shards: ShardSet) -> str:
    """Archive, samples, splits, groups, labels and shards, as text."""
    manifest = shards.manifest
    size = sum(entry.bytes for entry in manifest.shards)
    named = sum(manifest.splits.values())
    splits = [f"{name} {num:,}" for name, num in manifest.splits.items()]
    if splits and named < manifest.samples:
        splits.append(f"none {manifest.samples - named:,}")
    lines = [
        f"{shards.path}: archive {manifest.archive}, {manifest.samples:,} samples, "
        f"{len(manifest.shards)} shards, {size / 1e6:,.1f} MB",
        f"splits: {', '.join(splits) or 'none of its own'}",
        "",
        f"{'group':<10}{'sensor':<8}{'dtype':<9}{'pixels':<13}{'metres':<8}{'units':<7}bands",
        *(_group_line(shards, group) for group in shards.groups.values()),
    ]
    for name in shards.nomenclatures:
        lines += ["", *_label_lines(shards, name)]
    return "\n".join(lines)


def _group_line(shards: ShardSet, group: Group) -> str:
    entry = next(entry for entry in shards.manifest.groups if entry.name == group.name)
    pixels = "x".join(map(str, group.shape)) if group.shape else "<= " + "x".join(map(str, entry.max_shape))
    metres = "?" if group.gsd_m is None else f"{group.gsd_m:g}"
    head = f"{group.name:<10}{group.sensor:<8}{group.dtype:<9}{pixels:<13}{metres:<8}{group.units:<7}"
    return head + " ".join(group.bands)


def _label_lines(shards: ShardSet, nomenclature: str) -> list[str]:
    hot = shards.labels(nomenclature)
    known = shards.nomenclatures[nomenclature]
    unlabelled = int((~hot.any(axis=1)).sum())
    kind = "several a sample" if known.multi else "one a sample"
    head = f"labels {nomenclature!r}: {len(known.names)} classes, {kind}, {unlabelled:,} samples without"
    return [head, *(f"{num:>9,}  {name}" for name, num in zip(known.names, hot.sum(axis=0), strict=True))]


def row_of(shards: ShardSet, key: str) -> int:
    """The row of a key. ValueError with the nearest keys where there is none."""
    if key not in shards.row_of_key:
        near = difflib.get_close_matches(key, shards.row_of_key, n=3, cutoff=0.0)
        raise ValueError(
            f"{shards.path} has no sample {key!r} among its {len(shards)}; the nearest keys are {', '.join(near)}. "
            "Keys are lower case, with every other character than letters, digits, _ and - replaced by -."
        )
    return shards.row_of_key[key]


def describe(shards: ShardSet, row: int) -> str:
    """One sample as text: where it lies, its metadata, and statistics of every band."""
    images, metadata = shards.read(row)
    shard = shards.manifest.shards[int(shards.numbers("shard")[row])].name
    lines = [f"{metadata['key']}  (row {row}, {shard}, byte {int(shards.numbers('offset')[row]):,})"]
    lines += [f"  {name}: {', '.join(labels) or '(none)'}" for name, labels in metadata["labels"].items()]
    lines += [f"  split: {metadata['split'] or '(none)'}", f"  place: {place(metadata) or '(unknown)'}"]
    lines += [f"  {name}: {value}" for name, value in metadata["attributes"].items() if value is not None]
    lines += ["", f"  {'group':<10}{'band':<6}{'pixels':<9}{'min':>11}{'mean':>11}{'max':>11}{'std':>11}  units"]
    for name, group in shards.groups.items():
        for band, pixels in zip(group.bands, images[name].astype(np.float64), strict=True):
            numbers = "".join(f"{x:>11.2f}" for x in (pixels.min(), pixels.mean(), pixels.max(), pixels.std()))
            size = "x".join(map(str, pixels.shape))
            lines.append(f"  {name:<10}{band:<6}{size:<9}{numbers}  {group.units}")
    return "\n".join(lines)


def place(metadata: Metadata) -> str | None:
    """Where the middle of a sample is: degrees for UTM, coordinates of its CRS for others, and the country if known."""
    country: str | None = metadata["attributes"].get("country")
    if metadata["bounds"] is None:
        return country
    left, bottom, right, top = metadata["bounds"]
    x, y = (left + right) / 2, (bottom + top) / 2
    crs = metadata["crs"] or "unknown CRS"
    utm = re.fullmatch(r"EPSG:32([67])(\d\d)", crs)
    if utm:
        lat, lon = utm_degrees(x, y, zone=int(utm[2]), south=utm[1] == "7")
        where = f"{abs(lat):.4f}° {'N' if lat >= 0 else 'S'} {abs(lon):.4f}° {'E' if lon >= 0 else 'W'}, {crs}"
    else:
        where = f"x {x:.6g} y {y:.6g}, {crs if len(crs) < 20 else 'own CRS'}"
    return f"{country}, {where}" if country else where


def utm_degrees(x: float, y: float, zone: int, south: bool) -> tuple[float, float]:
    """Latitude and longitude in degrees of a point in UTM on WGS 84; Krüger's series to n^3, better than 1 cm."""
    n = 0.0016792203863837  # third flattening of WGS 84
    radius = 6367449.145823415  # of the meridian's rectifying sphere, metres
    xi = (y - (10_000_000.0 if south else 0.0)) / (0.9996 * radius)
    eta = (x - 500_000.0) / (0.9996 * radius)
    beta = (n / 2 - 2 / 3 * n**2 + 37 / 96 * n**3, n**2 / 48 + n**3 / 15, 17 / 480 * n**3)
    xi0 = xi - sum(b * math.sin(2 * j * xi) * math.cosh(2 * j * eta) for j, b in enumerate(beta, 1))
    eta0 = eta - sum(b * math.cos(2 * j * xi) * math.sinh(2 * j * eta) for j, b in enumerate(beta, 1))
    chi = math.asin(math.sin(xi0) / math.cosh(eta0))
    delta = (2 * n - 2 / 3 * n**2 - 2 * n**3, 7 / 3 * n**2 - 8 / 5 * n**3, 56 / 15 * n**3)
    lat = chi + sum(d * math.sin(2 * j * chi) for j, d in enumerate(delta, 1))
    lon = math.atan2(math.sinh(eta0), math.cos(xi0))
    degrees = math.degrees(lon) + zone * 6 - 183
    return math.degrees(lat), (degrees + 180) % 360 - 180


def band(shards: ShardSet, images: Images, name: str) -> NDArray[Any] | None:
    """One band [H W] of a sample by name, None where the set does not have it."""
    for group in shards.groups.values():
        if name in group.bands:
            pixels: NDArray[Any] = images[group.name][group.bands.index(name)]
            return pixels
    return None


def composite(bands: Sequence[NDArray[Any]], stretch: bool) -> NDArray[np.float32]:
    """Three bands [H W] as a picture [H W 3] in [0, 1]; `stretch` maps percentiles 2 to 98 of each, else 0..255."""
    picture = np.stack(bands, axis=-1).astype(np.float32)
    if not stretch:
        return picture / 255.0
    low, high = np.percentile(picture, (2, 98), axis=(0, 1))
    stretched: NDArray[np.float32] = np.clip((picture - low) / np.maximum(high - low, 1e-6), 0, 1).astype(np.float32)
    return stretched


def panels(shards: ShardSet, images: Images) -> list[tuple[str, NDArray[Any]]]:
    """(title, picture) of everything that can be shown: [H W 3] in [0, 1], or [H W] of one band in its units."""
    found: list[tuple[str, NDArray[Any]]] = []
    for title, names in COMPOSITES:
        bands = [pixels for name in names if (pixels := band(shards, images, name)) is not None]
        if len(bands) == 3:
            found.append((f"{title}\n{' '.join(names)}", composite(bands, stretch=names[0] != "R")))
    for name in ("VV", "VH"):
        pixels = band(shards, images, name)
        if pixels is not None:
            found.append((f"backscatter\n{name}", pixels))
    if not found:  # nothing that we know a picture for: every first band in grey
        found = [(f"{group.name}\n{group.bands[0]}", images[name][0]) for name, group in shards.groups.items()]
    return found


def draw_sample(shards: ShardSet, row: int, path: Path) -> None:
    """A PNG of one sample: all its pictures side by side, with key, labels, date and place."""
    images, metadata = shards.read(row)
    shown = panels(shards, images)
    width = max(3.1 * len(shown), 3.6)
    caption = _caption(shards, metadata, characters=int(15 * width))
    height = 3.5 + 0.22 * (caption.count("\n") + 1)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (title, picture) in zip(axes, shown, strict=True):
        _show(axis, picture)
        axis.set_title(title, fontsize=9, color=_FAINT, linespacing=1.4, loc="left")
    figure.suptitle(caption + "\n", fontsize=10, color=_INK, x=0.01, ha="left", linespacing=1.5)
    _save(figure, path)


def draw_sheet(shards: ShardSet, rows: Sequence[int], path: Path) -> None:
    """A PNG of several samples, one a line (one a cell, where a sample is a single picture)."""
    samples = [shards.read(row) for row in rows]
    shown = [panels(shards, images) for images, _ in samples]
    per_sample = len(shown[0])
    columns = per_sample if per_sample > 1 else min(4, len(rows))
    lines = math.ceil(len(rows) * per_sample / columns)
    figure = Figure(figsize=(2.5 * columns, 2.75 * lines), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for number, ((_, metadata), pictures) in enumerate(zip(samples, shown, strict=True)):
        for place_in_line, (title, picture) in enumerate(pictures):
            axis = axes[number * per_sample + place_in_line]
            _show(axis, picture)
            text = _short(shards, metadata) if place_in_line == 0 else title.replace("\n", ": ")
            axis.set_title(text, fontsize=7, color=_INK if place_in_line == 0 else _FAINT, loc="left")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.12)


def _show(axis: Axes, picture: NDArray[Any]) -> None:
    axis.set_axis_off()
    if picture.ndim == 3:
        axis.imshow(picture, interpolation="nearest")
        return
    low, high = np.percentile(picture, (2, 98))
    image = axis.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    bar = axis.get_figure(root=True).colorbar(image, ax=axis, shrink=0.8, pad=0.02, aspect=25)  # type: ignore[union-attr]
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, colors=_FAINT, length=2)
    bar.ax.set_title("dB", fontsize=7, color=_FAINT)


def _labels(shards: ShardSet, metadata: Metadata) -> str:
    """The labels in one nomenclature: one a sample before several, then the one with the fewest classes."""
    known = shards.nomenclatures
    for name in sorted(known, key=lambda name: (known[name].multi, len(known[name].names))):
        if metadata["labels"].get(name):
            return ", ".join(metadata["labels"][name])
    return "no labels"


def _dates(metadata: Metadata) -> str:
    """Every sensor's day of acquisition, as far as the archive tells."""
    dated = {
        name: str(value)[:10] for name, value in metadata["attributes"].items() if name.endswith("_date") and value
    }
    return ", ".join(f"{name.removesuffix('_date').upper()} {day}" for name, day in dated.items())


def _caption(shards: ShardSet, metadata: Metadata, characters: int) -> str:
    facts = (_dates(metadata), place(metadata), f"split {metadata['split']}" if metadata["split"] else None)
    lines = (metadata["key"], _labels(shards, metadata), "  ·  ".join(filter(None, facts)))
    return "\n".join(textwrap.fill(line, characters) for line in lines if line)


def _short(shards: ShardSet, metadata: Metadata) -> str:
    return "\n".join(
        textwrap.shorten(text, 42, placeholder=" …") for text in (metadata["key"], _labels(shards, metadata))
    )
