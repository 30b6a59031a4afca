"""BigEarthNet v1, Sentinel-2 alone, Sentinel-1 alone, or BigEarthNet-MM's true pairs of both.

Sumbul et al. 2019 and 2021; layout, traps and counts in methods.md G.1. Sentinel-1 stays float32 decibels: readers that
ask for int32 truncate it. A patch name may hold a one-digit hour (`T93020`), so names are matched, never sliced.
"""

import bz2
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from rspretrain.archives.base import Archive, Entry
from rspretrain.archives.corine import NOMENCLATURES, label_sets
from rspretrain.archives.raster import Raster, crs_of_wkt, read_raster
from rspretrain.patch import Fault, Patch, PatchError, key_of
from rspretrain.sensors import Group

S1_GROUPS = (Group("s1_10m", "s1", ("VV", "VH"), "float32", (120, 120), 10.0, "db"),)
S2_GROUPS = (
    Group("s2_10m", "s2", ("B02", "B03", "B04", "B08"), "uint16", (120, 120), 10.0, "dn"),
    Group("s2_20m", "s2", ("B05", "B06", "B07", "B8A", "B11", "B12"), "uint16", (60, 60), 20.0, "dn"),
    Group("s2_60m", "s2", ("B01", "B09"), "uint16", (20, 20), 60.0, "dn"),
)
SPLITS = ("train", "val", "test")
_S2_NAME = re.compile(r"S2[AB]_MSIL2A_\d{8}T\d{5,6}_\d{1,3}_\d{1,3}")
_S1_NAME = re.compile(r"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{5,6}_[0-9A-Z]{5}_\d{1,3}_\d{1,3}")
_SEASONS = ("winter", "spring", "summer", "fall")  # three months each, winter from December; the archive is northern


# What is read of one sensor of one patch: its folder, its JSON and the groups that its bands make up.
_Side = tuple[Path, dict[str, Any], tuple[Group, ...]]


@dataclass(frozen=True)
class Source:
    """Folder names of one patch (None for a sensor that is not used) and its split."""

    s2: str | None
    s1: str | None
    split: str | None


@dataclass(frozen=True)
class _Tables:
    """What the CSV files say: the split of a patch by its S2 name, and the S2 partner of an S1 name."""

    split_of: dict[str, str]
    partner_of: dict[str, str]


@final
class BigEarthNet(Archive):
    """Patches of 1.2 km in ten European countries with 43 and 19 CORINE classes.

    `s2` and `s1` are the folders `BigEarthNet-v1.0` and `BigEarthNet-S1-v1.0` (or what holds them); with both, only
    true pairs are patches. `splits` holds `train.csv`, `val.csv`, `test.csv` (or `.csv.bz2`), and optionally
    `s1_s2_mapping.csv`; rows are names of either sensor, so old one-column and new two-column files both work.
    """

    def __init__(self, s2: Path | None = None, s1: Path | None = None, splits: Path | None = None) -> None:
        if s2 is None and s1 is None:
            raise ValueError("BigEarthNet got no source, expected S2, S1 or both. Give S2=<folder>, S1=<folder>.")
        self.name = "bigearthnet"
        self.s2 = None if s2 is None else _existing(Path(s2), "BigEarthNet-v1.0")
        self.s1 = None if s1 is None else _existing(Path(s1), "BigEarthNet-S1-v1.0")
        self.splits = None if splits is None else _existing(Path(splits), "splits")
        self.groups = (S1_GROUPS if self.s1 else ()) + (S2_GROUPS if self.s2 else ())
        self.nomenclatures = NOMENCLATURES
        self.metadata_bytes = 2048

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """Patches (true pairs, given both sensors) by key; names that fit no pattern and lonely patches are faults."""
        faults: list[Fault] = []
        tables = _read_tables(self.splits, partners=self.s1 is not None)
        s2 = _folders(self.s2, _S2_NAME, faults)
        partners = self._partners(_folders(self.s1, _S1_NAME, faults), tables, faults)
        if self.s2 is None:
            sources = [Source(None, s1, tables.split_of.get(name or "")) for s1, name in partners.items()]
        elif self.s1 is None:
            sources = [Source(name, None, tables.split_of.get(name)) for name in s2]
        else:
            sources = [Source(name, s1, tables.split_of.get(name)) for s1, name in _pairs(s2, partners, faults)]
        return _keyed(sources, faults), faults

    def read(self, entry: Entry) -> Patch:
        """One patch. PatchError for a missing, cut or odd band file, a strange label, or sensors that do not meet."""
        source: Source = entry.source
        sides: list[_Side] = []
        for root, name, groups in ((self.s2, source.s2, S2_GROUPS), (self.s1, source.s1, S1_GROUPS)):
            if root is not None and name is not None:
                sides.append((root / name, _metadata(root / name), groups))
        if source.s2 and source.s1 and sides[1][1].get("corresponding_s2_patch") != source.s2:
            said = sides[1][1].get("corresponding_s2_patch")
            raise PatchError(
                f"{source.s1}: its JSON names the partner {said!r}, expected {source.s2!r}. Check the CSVs."
            )
        images, places = _images(sides)
        folder, metadata, _ = sides[0]
        crs, bounds = places[0].crs, places[0].bounds
        return Patch(
            entry.key,
            {group.name: images[group.name] for group in self.groups},
            _labels(folder, metadata),
            source.split,
            crs or crs_of_wkt(str(metadata.get("projection", ""))),
            bounds or _json_bounds(folder, metadata),
            _attributes(sides),
        )

    def num_absent(self) -> dict[str, int]:
        """How many patches of every split file are not on disk: information about a subset, not a fault."""
        if self.s2 is None or self.splits is None:
            return {}
        present = set(_folders(self.s2, _S2_NAME, []))
        split_of = _read_tables(self.splits, partners=False).split_of
        return dict(Counter(split for name, split in split_of.items() if name not in present))

    def _partners(self, s1: list[str], tables: _Tables, faults: list[Fault]) -> dict[str, str | None]:
        """S2 name of every S1 name, from the CSVs or else from the S1 JSON; None where nobody asks for it."""
        if self.s1 is None or (self.s2 is None and not tables.split_of):
            return dict.fromkeys(s1)
        partners: dict[str, str | None] = {}
        for name in s1:
            try:
                partner = tables.partner_of.get(name) or _metadata(self.s1 / name).get("corresponding_s2_patch")
            except PatchError as error:
                faults.append(Fault(name, str(error)))
                continue
            partners[name] = None if partner is None else str(partner)
        return partners


def _existing(folder: Path, usual: str) -> Path:
    """The folder itself, or the one of the usual name inside it."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder, expected {usual}. Give the path of the unpacked archive.")
    return folder / usual if (folder / usual).is_dir() else folder


def _folders(root: Path | None, pattern: re.Pattern[str], faults: list[Fault]) -> list[str]:
    """Sorted folder names that are patch names; other folders are faults, loose and hidden files are not looked at."""
    if root is None:
        return []
    with os.scandir(root) as scan:
        names = sorted(item.name for item in scan if not item.name.startswith(".") and item.is_dir())
    for name in names:
        if not pattern.fullmatch(name):
            faults.append(Fault(name, f"the folder name is no patch name, expected {pattern.pattern}"))
    return [name for name in names if pattern.fullmatch(name)]


def _pairs(s2: list[str], partners: dict[str, str | None], faults: list[Fault]) -> list[tuple[str, str]]:
    """(S1 name, S2 name) of all true pairs; what is left over on either side is a fault."""
    waiting = set(s2)
    pairs: list[tuple[str, str]] = []
    taken: dict[str, str] = {}
    for s1, name in partners.items():
        if name in taken:
            faults.append(Fault(s1, f"its Sentinel-2 partner {name} belongs to {taken[name]} already"))
        elif name is None or name not in waiting:
            faults.append(Fault(s1, f"Sentinel-1 patch without its Sentinel-2 partner {name or '(none named)'}"))
        else:
            taken[name] = s1
            pairs.append((s1, name))
    faults += [Fault(name, "Sentinel-2 patch without a Sentinel-1 partner") for name in s2 if name not in taken]
    return pairs


def _keyed(sources: list[Source], faults: list[Fault]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for source in sources:
        name = source.s2 or source.s1 or ""
        key = key_of(name)
        if key in entries:
            faults.append(Fault(name, f"has the same key {key!r} as {entries[key].name}; the first one stays"))
        else:
            entries[key] = Entry(key, name, source)
    return [entries[key] for key in sorted(entries)]


def _read_tables(folder: Path | None, partners: bool = True) -> _Tables:
    """Splits and, where asked for, partners from CSV files. ValueError where one is missing or a patch is in two."""
    tables = _Tables({}, {})
    if folder is None:
        return tables
    for split in SPLITS:
        path = _csv(folder, split)
        if path is None:
            raise ValueError(f"{folder} holds no {split}.csv (or .csv.bz2), expected one for each of {SPLITS}. Add it.")
        for s2, s1 in _rows(path):
            earlier = tables.split_of.setdefault(s2, split)
            if earlier != split:
                raise ValueError(f"{path}: {s2} is in {earlier} too, expected disjoint splits. Repair the files.")
            if s1 and partners:
                tables.partner_of[s1] = s2
    mapping = _csv(folder, "s1_s2_mapping") if partners else None
    tables.partner_of.update({s1: s2 for s2, s1 in _rows(mapping) if s1} if mapping else {})
    return tables


def _csv(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in (".csv", ".csv.bz2") if (path := folder / (stem + suffix)).is_file()), None)


def _rows(path: Path) -> Iterator[tuple[str, str | None]]:
    """(S2 name, S1 name or None) of each row, whichever comes first; a header has neither and is passed over."""
    raw = path.read_bytes()
    text = (bz2.decompress(raw) if path.suffix == ".bz2" else raw).decode()
    for number, line in enumerate(text.split()):
        first, _, second = line.partition(",")
        if first.startswith("S2"):
            yield first, second or None
        elif second.startswith("S2"):
            yield second, first
        elif number:
            raise ValueError(f"{path}, line {number + 1}: {line!r}, expected s2_name,s1_name. Repair the file.")


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / f"{folder.name}_labels_metadata.json"
    try:
        metadata = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise PatchError(f"{path}: the file is missing. Unpack or download the archive again.") from error
    except ValueError as error:
        raise PatchError(f"{path}: no JSON ({error}). Unpack or download the file again.") from error
    if not isinstance(metadata, dict):
        raise PatchError(f"{path}: {type(metadata).__name__}, expected a JSON object. Download the file again.")
    return metadata


def _labels(folder: Path, metadata: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    labels = metadata.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
        raise PatchError(f"{folder.name}: labels {labels!r}, expected a list of CORINE names. Repair its JSON.")
    try:
        return label_sets(labels)
    except ValueError as error:
        raise PatchError(f"{folder.name}: {error}. Repair its JSON or leave the patch out.") from error


def _images(
    sides: list[_Side],
) -> tuple[dict[str, NDArray[np.generic]], list[Raster]]:
    """Arrays by group name, and the first raster of every sensor. All files of a patch must show the same square."""
    images: dict[str, NDArray[np.generic]] = {}
    firsts: list[Raster] = []
    for folder, _, groups in sides:
        rasters = {band: read_raster(folder / f"{folder.name}_{band}.tif") for group in groups for band in group.bands}
        firsts.append(next(iter(rasters.values())))
        for group in groups:
            for band in group.bands:
                _check(folder, group, band, rasters[band], firsts[0])
            images[group.name] = np.concatenate([rasters[band].pixels for band in group.bands])
    return images, firsts


def _check(folder: Path, group: Group, band: str, raster: Raster, first: Raster) -> None:
    file = f"{folder.name}_{band}.tif"
    found, expected = (raster.pixels.dtype.name, raster.pixels.shape), (group.dtype, (1, *(group.shape or ())))
    if found != expected:
        raise PatchError(
            f"{file}: {found[0]} {found[1]}, expected {expected[0]} {expected[1]}. Download the file again."
        )
    if raster.bounds and first.bounds and raster.crs == first.crs:
        if np.abs(np.subtract(raster.bounds, first.bounds)).max() <= 5.0:  # half a pixel of 10 m
            return
    elif raster.bounds is None or first.bounds is None:
        return
    raise PatchError(
        f"{file}: lies at {raster.crs} {raster.bounds}, expected {first.crs} {first.bounds}. Check the pair."
    )


def _json_bounds(folder: Path, metadata: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a patch whose rasters carry no place. Sentinel-1 files spell `lry` as `lly`."""
    corners = metadata.get("coordinates", {})
    bottom = corners.get("lry", corners.get("lly"))
    try:
        return (float(corners["ulx"]), float(bottom), float(corners["lrx"]), float(corners["uly"]))
    except (KeyError, TypeError) as error:
        raise PatchError(
            f"{folder.name}: coordinates {corners!r}, expected ulx, uly, lrx, lry. Repair its JSON."
        ) from error


def _attributes(
    sides: list[_Side],
) -> dict[str, str | int | float | None]:
    attributes: dict[str, str | int | float | None] = {}
    for folder, metadata, groups in sides:
        sensor = groups[0].sensor
        written = metadata.get("acquisition_date" if sensor == "s2" else "acquisition_time")
        try:
            date = datetime.fromisoformat(str(written))
        except ValueError as error:
            raise PatchError(
                f"{folder.name}: acquired at {written!r}, expected YYYY-MM-DD hh:mm:ss. Repair its JSON."
            ) from error
        attributes[f"{sensor}_name"] = folder.name
        attributes[f"{sensor}_date"] = date.isoformat()
        origin = "tile_source" if sensor == "s2" else "scene_source"
        attributes[origin] = str(metadata.get(origin, ""))
        attributes.setdefault("season", _SEASONS[date.month % 12 // 3])
    return attributes
