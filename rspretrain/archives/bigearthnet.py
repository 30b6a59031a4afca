"""BigEarthNet v1: Sentinel-2 alone, Sentinel-1 alone, or the pairs of BigEarthNet-MM.

Sumbul et al. 2019 and 2021; docs/methods.md, BigEarthNet v1. Sentinel-1 stays float32 decibels: readers that convert to
int32 truncate it. A patch name may hold a one-digit hour (`T93020`), so names are matched by pattern, never sliced.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, final

from rspretrain.archives.base import Archive, Entry
from rspretrain.archives.bigearthnet_lists import FLAG_FILES, Flag, Lists, random_splits, read_lists
from rspretrain.archives.corine import NOMENCLATURES, label_sets
from rspretrain.archives.raster import crs_of_wkt
from rspretrain.archives.sentinel import S1_GROUPS, S2_GROUPS, find_folder, folders_in, read_patch_folders, season_of
from rspretrain.patch import Exclusion, Fault, Patch, PatchError, key_of

_S2_NAME = re.compile(r"S2[AB]_MSIL2A_\d{8}T\d{5,6}_\d{1,3}_\d{1,3}")
_S1_NAME = re.compile(r"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{5,6}_[0-9A-Z]{5}_\d{1,3}_\d{1,3}")


@dataclass(frozen=True, slots=True)
class Source:
    """Folder names of one patch (None for an unused sensor), its split, and its snow and cloud flags."""

    s2: str | None
    s1: str | None
    split: str | None
    snow: bool | None = None  # None without a list
    cloud: bool | None = None


@final
class BigEarthNet(Archive):
    """Patches of 1.2 km in ten European countries with 43 and 19 CORINE classes.

    `s2` and `s1` are the folders `BigEarthNet-v1.0` and `BigEarthNet-S1-v1.0`, or their parent folders. With both, only
    complete pairs are patches. `splits` holds `train.csv`, `val.csv`, `test.csv`, and optionally `s1_s2_mapping.csv`,
    `patches_with_seasonal_snow.csv` and `patches_with_cloud_and_shadow.csv` (each may be `.csv.bz2`).

    `exclude` leaves out the patches in the snow or the cloud list, as exclusions, not as faults. If a list exists,
    patches have the attribute `snow` or `cloud`, 0 or 1. `split`: `official` reads the CSV files, and a patch in none
    of them has no split; `official-only` leaves such patches out; `random` draws 60/20/20 with `seed` from the
    remaining patches (K-Branch CNN's protocol) and needs no split files. All lists use the Sentinel-2 name, also for
    Sentinel-1 alone.
    """

    def __init__(
        self,
        s2: Path | None = None,
        s1: Path | None = None,
        splits: Path | None = None,
        exclude: tuple[Flag, ...] = (),
        split: Literal["official", "official-only", "random"] = "official",
        seed: int = 0,
    ) -> None:
        if s2 is None and s1 is None:
            raise ValueError("BigEarthNet got no source, expected S2, S1 or both. Give S2=<folder>, S1=<folder>.")
        if splits is None and (exclude or split == "official-only"):
            asked = f"exclude={','.join(exclude)}" if exclude else f"split={split}"
            raise ValueError(f"{asked} got no lists, expected their folder. Give splits=<folder>.")
        if seed and split != "random":
            raise ValueError(
                f"seed={seed} has no effect on split={split}, expected none. Drop it, or set split=random."
            )
        self.name = "bigearthnet"
        self.s2 = None if s2 is None else find_folder(Path(s2), "BigEarthNet-v1.0")
        self.s1 = None if s1 is None else find_folder(Path(s1), "BigEarthNet-S1-v1.0")
        self.splits = None if splits is None else find_folder(Path(splits), "splits")
        self.exclude, self.split, self.seed = exclude, split, seed
        self.groups = (S1_GROUPS if self.s1 else ()) + (S2_GROUPS if self.s2 else ())
        self.nomenclatures = NOMENCLATURES
        self.metadata_bytes = 2048

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """Patches (complete pairs, given both sensors), sorted by key.

        Unexpected names and unpaired patches are faults.

        ValueError if a split file or the list of an excluded flag is missing.
        """
        faults: list[Fault] = []
        lists = read_lists(self.splits, splits=self.split != "random", partners=self.s1 is not None)
        # Before pairing: an excluded patch is not an unpaired one.
        exclusion_reason = self._exclusion_rule(lists)
        on_disk = dict.fromkeys(_folders(self.s2, _S2_NAME, faults))
        s2 = [name for name in on_disk if exclusion_reason(name) is None]
        partners = self._partners(lists, faults)
        excluded = {name: exclusion_reason(name) for name in on_disk} | {
            s1: exclusion_reason(name) for s1, name in partners.items() if name not in on_disk
        }
        faults += [Exclusion(name, reason) for name, reason in excluded.items() if reason is not None]
        partners = {s1: name for s1, name in partners.items() if exclusion_reason(name) is None}
        patches: list[tuple[str | None, str | None, str | None]]  # S2 folder, S1 folder, S2 name for the lists
        if self.s2 is None:
            patches = [(None, s1, name) for s1, name in partners.items()]
        elif self.s1 is None:
            patches = [(name, None, name) for name in s2]
        else:
            patches = [(name, s1, name) for s1, name in _pairs(s2, partners, faults)]
        split_of = lists.split_of
        if self.split == "random":
            split_of = random_splits((name for _, _, name in patches if name), self.seed)
        sources = [
            Source(s2_folder, s1, split_of.get(name or ""), lists.flag("snow", name), lists.flag("cloud", name))
            for s2_folder, s1, name in patches
        ]
        return _unique_entries(sources, faults), faults

    def read(self, entry: Entry) -> Patch:
        """Read one patch.

        PatchError for a missing or damaged band file, an unknown label, or sensors at different locations.
        """
        source: Source = entry.source
        used = [(self.s2, source.s2, S2_GROUPS), (self.s1, source.s1, S1_GROUPS)]
        parts = [(root / name, groups) for root, name, groups in used if root is not None and name is not None]
        jsons = [_metadata(folder) for folder, _ in parts]
        if source.s2 and source.s1 and (partner := jsons[1].get("corresponding_s2_patch")) != source.s2:
            raise PatchError(
                f"{source.s1}: its JSON names the partner {partner!r}, expected {source.s2!r}. Check the CSVs."
            )
        images, rasters = read_patch_folders(parts)
        folder, metadata = parts[0][0], jsons[0]
        crs, bounds = rasters[0].crs, rasters[0].bounds
        flags = {"snow": source.snow, "cloud": source.cloud}
        return Patch(
            entry.key,
            {group.name: images[group.name] for group in self.groups},
            _labels(folder, metadata),
            source.split,
            crs or crs_of_wkt(str(metadata.get("projection", ""))),
            bounds or _json_bounds(folder, metadata),
            _attributes({folder.name: json for (folder, _), json in zip(parts, jsons, strict=True)})
            | {name: int(flag) for name, flag in flags.items() if flag is not None},
        )

    def _exclusion_rule(self, lists: Lists) -> Callable[[str | None], str | None]:
        """A function that returns why the options exclude a patch, by its S2 name; None if they do not."""
        if missing := [flag for flag in self.exclude if flag not in lists.flagged]:
            raise ValueError(
                f"exclude={missing[0]} got no list: {self.splits} holds no {FLAG_FILES[missing[0]]}.csv (or .csv.bz2), "
                "expected one Sentinel-2 name per line. Add the file, or drop the option."
            )
        flagged = [(flag, lists.flagged[flag]) for flag in self.exclude]
        listed = lists.split_of if self.split == "official-only" else None

        def exclusion_reason(name: str | None) -> str | None:
            reason = next((f"is in the list of {flag}" for flag, names in flagged if name in names), None)
            return reason or (None if listed is None or name in listed else "is in no official split")

        return exclusion_reason

    def _partners(self, lists: Lists, faults: list[Fault]) -> dict[str, str | None]:
        """S2 name of every S1 name, from the CSV files or else from the S1 JSON; None if no option needs it."""
        names = _folders(self.s1, _S1_NAME, faults)
        if self.s1 is None or (self.s2 is None and self.splits is None and self.split != "random"):
            return dict.fromkeys(names)
        partners: dict[str, str | None] = {}
        for name in names:
            try:
                partner = lists.partner_of.get(name) or _metadata(self.s1 / name).get("corresponding_s2_patch")
            except PatchError as error:
                faults.append(Fault(name, str(error)))
                continue
            if partner is None:
                faults.append(Fault(name, "Sentinel-1 patch without its Sentinel-2 partner (none named)"))
            else:
                partners[name] = str(partner)
        return partners


def _folders(root: Path | None, pattern: re.Pattern[str], faults: list[Fault]) -> list[str]:
    """Sorted names of patch folders; other folders are faults."""
    names = [] if root is None else folders_in(root)
    for name in names:
        if not pattern.fullmatch(name):
            faults.append(Fault(name, f"the folder name is not a patch name, expected {pattern.pattern}"))
    return [name for name in names if pattern.fullmatch(name)]


def _pairs(s2: list[str], partners: dict[str, str | None], faults: list[Fault]) -> list[tuple[str, str]]:
    """(S1 name, S2 name) of all pairs; unpaired patches of either sensor are faults."""
    waiting = set(s2)
    pairs: list[tuple[str, str]] = []
    taken: dict[str, str] = {}
    for s1, name in partners.items():
        if name in taken:
            faults.append(Fault(s1, f"its Sentinel-2 partner {name} is already the partner of {taken[name]}"))
        elif name is None or name not in waiting:
            faults.append(Fault(s1, f"Sentinel-1 patch without its Sentinel-2 partner {name}"))
        else:
            taken[name] = s1
            pairs.append((s1, name))
    faults += [Fault(name, "Sentinel-2 patch without a Sentinel-1 partner") for name in s2 if name not in taken]
    return pairs


def _unique_entries(sources: list[Source], faults: list[Fault]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for source in sources:
        name = source.s2 or source.s1 or ""
        key = key_of(name)
        if key in entries:
            faults.append(Fault(name, f"has the same key {key!r} as {entries[key].name}; the first one stays"))
        else:
            entries[key] = Entry(key, name, source)
    return [entries[key] for key in sorted(entries)]


def _metadata(folder: Path) -> dict[str, Any]:
    path = folder / f"{folder.name}_labels_metadata.json"
    try:
        metadata = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise PatchError(f"{path}: the file is missing. Unpack or download the archive again.") from error
    except (ValueError, OSError) as error:
        raise PatchError(f"{path}: not JSON ({error}). Unpack or download the file again.") from error
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


def _json_bounds(folder: Path, metadata: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a patch without georeferenced rasters. Sentinel-1 files spell `lry` as `lly`."""
    corners = metadata.get("coordinates")
    try:
        bottom = corners.get("lry", corners.get("lly"))  # type: ignore[union-attr]
        left, bottom, right, top = map(float, (corners["ulx"], bottom, corners["lrx"], corners["uly"]))  # type: ignore[index]
    except (AttributeError, KeyError, TypeError, ValueError):
        left = bottom = right = top = math.nan
    if not math.isfinite(left + bottom + right + top):
        raise PatchError(f"{folder.name}: coordinates {corners!r}, expected ulx, uly, lrx, lry. Repair its JSON.")
    return left, bottom, right, top


def _attributes(jsons: dict[str, dict[str, Any]]) -> dict[str, str | int | float | None]:
    """Names, dates, source products and the season, from the JSON of every sensor by patch name."""
    attributes: dict[str, str | int | float | None] = {}
    for name, metadata in jsons.items():
        sensor = name[:2].lower()
        written = metadata.get("acquisition_date" if sensor == "s2" else "acquisition_time")
        try:
            date = datetime.fromisoformat(str(written))
        except ValueError as error:
            raise PatchError(
                f"{name}: acquired at {written!r}, expected YYYY-MM-DD hh:mm:ss. Repair its JSON."
            ) from error
        attributes[f"{sensor}_name"] = name
        attributes[f"{sensor}_date"] = date.isoformat()
        origin = "tile_source" if sensor == "s2" else "scene_source"
        attributes[origin] = str(metadata.get(origin, ""))
        attributes.setdefault("season", season_of(date))
    return attributes
