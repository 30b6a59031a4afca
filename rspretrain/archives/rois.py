"""Base of SEN12MS and DFC2020, whose files are named `ROIs…_<kind>_<scene>_p<patch>.tif`.

One multi-band file per patch and kind (s1, s2, lc, dfc), all on one grid. Files are identified by name alone, because
folder names vary between downloads (`ROIs1158_spring/s1_1/`, `ROIs1158_spring_s1/s1_1/` and others).
"""

import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import numpy as np

from rspretrain.archives.base import Archive, Entry, Nomenclature
from rspretrain.archives.headers import common_dtype, common_shape, read_header, sample_evenly
from rspretrain.archives.raster import Raster, read_raster
from rspretrain.patch import Exclusion, Fault, Patch, PatchError, key_of, type_of_attribute
from rspretrain.sensors import BAND_ORDER, Group

Kind = Literal["s1", "s2", "lc", "dfc"]
GSD_M = 10.0  # the authors of the archives resampled 20 m, 60 m and 500 m sources to it
MAX_HEADERS = 256  # files per kind whose headers determine the shape and dtype of the group
MAX_DEPTH = 6  # of folders below the root; ends loops of symbolic links
# DFC2020: the scene of the validation set is called "validation" in one release and "0" in another.
SEN12MS_FILE = re.compile(
    r"(?P<roi>ROIs\d+_(?P<part>spring|summer|fall|winter))_(?P<kind>s1|s2|lc)_(?P<scene>\d+)_p(?P<patch>\d+)\.(?i:tiff?)"
)
DFC2020_FILE = re.compile(
    r"(?P<roi>ROIs\d+_(?P<part>validation|test))_(?P<kind>s1|s2|lc|dfc)_(?P<scene>0|validation|test)"
    r"_p(?P<patch>\d+)\.(?i:tiff?)"
)
_IGBP = ("igbp", "lccs_cover", "lccs_use", "lccs_hydrology")


@dataclass(frozen=True)
class KindSpec:
    """The files of one kind: bands in file order, dtype and units, as documented by the archive."""

    group: str
    sensor: str
    bands: tuple[str, ...]
    dtype: str  # if no header can be read
    units: str


KIND_SPECS: dict[Kind, KindSpec] = {
    "s1": KindSpec("s1_10m", "s1", BAND_ORDER["s1"], "float32", "db"),
    "s2": KindSpec("s2_10m", "s2", BAND_ORDER["s2"], "uint16", "dn"),  # B8A after B8, B9 and B10 after it: canonical
    "lc": KindSpec("lc_10m", "map", _IGBP, "uint8", "class"),
    "dfc": KindSpec("dfc_10m", "map", ("dfc",), "uint8", "class"),
}


@dataclass(frozen=True)
class Source:
    """One patch: the parts of its name, and its files by kind, relative to the root."""

    part: str  # "summer", "validation"
    scene: str
    patch: int
    files: dict[Kind, str] = field(default_factory=dict)


class Rois(Archive):
    """Base of SEN12MS and DFC2020. Each patch must have files of all `kinds`; those in `stored` become groups."""

    pattern: re.Pattern[str]  # of a file name, with the groups part, kind, scene and patch
    example: str  # such a name, for messages

    def __init__(self, root: Path, kinds: tuple[Kind, ...], stored: tuple[Kind, ...]) -> None:
        if not root.is_dir():
            raise ValueError(f"{root} is not a folder, expected an archive. Give the path of the unpacked archive.")
        self.root, self.kinds = root, kinds
        found = self._find_patches([])
        if missing := [kind for kind in kinds if not any(kind in source.files for source in found.values())]:
            raise ValueError(
                f"{root} holds no {missing[0]} files, expected some named like {self.example}. Give the folder above "
                f"all scenes, unpack what is missing, or leave {missing[0]} out with an --option."
            )
        self.group_of = {kind: self._group(kind, found) for kind in stored}
        self.groups = tuple(self.group_of.values())
        self.nomenclatures: dict[str, Nomenclature] = {}
        self.metadata_bytes = 1536
        self.damaged: Mapping[str, str] = {}  # name of an excluded patch -> reason

    @abstractmethod
    def name_of(self, match: re.Match[str]) -> str:
        """The name of the patch, equal for its files of all kinds."""

    @abstractmethod
    def split_of(self, source: Source) -> str:
        """The official split of a patch."""

    @abstractmethod
    def labels(self, rasters: Mapping[Kind, Raster]) -> dict[str, tuple[str, ...]]:
        """Labels derived from the maps among the rasters."""

    @abstractmethod
    def attributes(self, source: Source) -> dict[str, type_of_attribute]:
        """Attributes for filters, in addition to the file names."""

    @final
    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """Patches sorted by name.

        Incomplete patches and unexpected file names are faults, known damage is an exclusion.
        """
        faults: list[Fault] = []
        entries: list[Entry] = []
        for name, source in sorted(self._find_patches(faults).items()):
            missing = [kind for kind in self.kinds if kind not in source.files]
            if name in self.damaged:
                faults.append(Exclusion(name, self.damaged[name]))
            elif missing:
                present = ", ".join(sorted(source.files.values()))
                faults.append(Fault(name, f"has no {' and no '.join(missing)} file, only {present}; unpack it again"))
            else:
                entries.append(Entry(key_of(name), name, source))
        return entries, faults

    @final
    def read(self, entry: Entry) -> Patch:
        """Read one patch. PatchError for a missing or damaged file, and for files at different locations."""
        source: Source = entry.source
        rasters = {kind: read_raster(self.root / source.files[kind]) for kind in self.kinds}
        first = rasters[self.kinds[0]]
        for kind, raster in rasters.items():
            _check_location(source.files[kind], raster, first)
            if kind in self.group_of:
                _check_pixels(source.files[kind], raster, self.group_of[kind])
        placed = next((raster for raster in rasters.values() if raster.bounds), first)
        names = {f"{kind}_name": Path(source.files[kind]).stem for kind in self.kinds}
        return Patch(
            entry.key,
            {group.name: rasters[kind].pixels for kind, group in self.group_of.items()},
            self.labels(rasters),
            self.split_of(source),
            placed.crs,
            placed.bounds,
            {**self.attributes(source), **names},
        )

    def _find_patches(self, faults: list[Fault]) -> dict[str, Source]:
        """All patches by name, with their files of the required kinds."""
        found: dict[str, Source] = {}
        for path, file in _rasters(str(self.root), "", MAX_DEPTH):
            match = self.pattern.fullmatch(file)
            if match is None and any(pattern.fullmatch(file) for pattern in (SEN12MS_FILE, DFC2020_FILE)):
                continue  # both archives may be in one folder, as in the code of the papers
            if match is None:
                hint = "; clouds (SEN12MS-CR) are not read" if "_cloudy_" in file else ""
                reason = f"the file name is not one of the archive, expected one like {self.example}{hint}"
                faults.append(Fault(path, reason))
                continue
            kind: Kind = match["kind"]  # type: ignore[assignment]
            if kind not in self.kinds:
                continue
            name = self.name_of(match)
            files = found.setdefault(name, Source(match["part"], match["scene"], int(match["patch"]))).files
            if kind in files:
                faults.append(
                    Fault(path, f"is a second {kind} file of {name}, after {files[kind]}; the first one is used")
                )
            else:
                files[kind] = path
        return found

    def _group(self, kind: Kind, found: Mapping[str, Source]) -> Group:
        """The group of a kind, from up to MAX_HEADERS files: the most frequent dtype, and the shape if all share it."""
        paths = sorted(source.files[kind] for source in found.values() if kind in source.files)
        headers = [header for path in sample_evenly(paths, MAX_HEADERS) if (header := read_header(self.root / path))]
        spec = KIND_SPECS[kind]
        # Land cover files reduced to their first band (IGBP) are accepted.
        single = sum(header.bands == 1 for header in headers) > len(headers) / 2
        bands = spec.bands[:1] if spec.sensor == "map" and single else spec.bands
        return Group(
            spec.group, spec.sensor, bands, common_dtype(headers, spec.dtype), common_shape(headers), GSD_M, spec.units
        )


def _rasters(folder: str, below: str, levels: int) -> Iterator[tuple[str, str]]:
    """(path below the root, file name) of every TIFF that is not hidden, by folder and name."""
    with os.scandir(folder) as scan:
        items = sorted((item for item in scan if not item.name.startswith((".", "__MACOSX"))), key=lambda i: i.name)
    for item in items:
        if item.name.lower().endswith((".tif", ".tiff")):
            yield below + item.name, item.name
        elif levels and item.is_dir():
            yield from _rasters(item.path, f"{below}{item.name}/", levels - 1)


def _check_pixels(path: str, raster: Raster, group: Group) -> None:
    height, width = group.shape or raster.pixels.shape[1:]
    found, expected = (raster.pixels.dtype.name, raster.pixels.shape), (group.dtype, (len(group.bands), height, width))
    if found != expected:
        raise PatchError(
            f"{path}: {found[0]} {found[1]}, expected {expected[0]} {expected[1]} as in the others. Download it again."
        )


def _check_location(path: str, raster: Raster, first: Raster) -> None:
    """PatchError unless both files have the same size and CRS, and bounds within half a pixel."""
    size, expected = raster.pixels.shape[1:], first.pixels.shape[1:]
    if size != expected:
        raise PatchError(f"{path}: {size} pixels, expected {expected} as its partner has. Download the patch again.")
    if raster.bounds is None or first.bounds is None:
        return
    half = (first.bounds[2] - first.bounds[0]) / expected[1] / 2
    if raster.crs != first.crs or np.abs(np.subtract(raster.bounds, first.bounds)).max() > abs(half):
        raise PatchError(
            f"{path}: is at {raster.crs} {raster.bounds}, expected {first.crs} {first.bounds} as its partner does. "
            "Check the patch."
        )


def image_kinds(archive: str, sensors: tuple[Literal["s1", "s2"], ...]) -> tuple[Kind, ...]:
    """The kinds of images selected by the option `sensors`, in order. ValueError for none, or duplicates."""
    if not sensors or len(set(sensors)) != len(sensors):
        raise ValueError(f"{archive} got sensors {sensors}, expected s1, s2 or both once. Give sensors=s1,s2.")
    return tuple(sorted(sensors))
