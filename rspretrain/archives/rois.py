"""Archives whose files are named `ROIs…_<kind>_<scene>_p<patch>.tif`: SEN12MS and DFC2020 (methods.md G.4, G.5).

One multi-band file a patch and kind (s1, s2, lc, dfc), all of one grid. The file's name says everything; folders are
only walked through, because downloads unpack to `ROIs1158_spring/s1_1/`, `ROIs1158_spring_s1/s1_1/` and others.
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
from rspretrain.archives.headers import common_dtype, common_shape, evenly, read_header
from rspretrain.archives.raster import Raster, read_raster
from rspretrain.patch import Exclusion, Fault, Patch, PatchError, key_of, type_of_attribute
from rspretrain.sensors import BAND_ORDER, Group

Kind = Literal["s1", "s2", "lc", "dfc"]
GSD_M = 10.0  # 20 m, 60 m and 500 m sources were resampled to it by the archives' authors
MOST_HEADERS = 256  # files of a kind whose headers decide the group's shape; all of them in a small archive
MOST_LEVELS = 6  # folders below the root: a link that leads back up must end somewhere
# DFC2020: two releases call the one scene of the validation set "validation" and "0", in folders and in file names.
SEN12MS_FILE = re.compile(
    r"(?P<roi>ROIs\d+_(?P<part>spring|summer|fall|winter))_(?P<kind>s1|s2|lc)_(?P<scene>\d+)_p(?P<patch>\d+)\.(?i:tiff?)"
)
DFC2020_FILE = re.compile(
    r"(?P<roi>ROIs\d+_(?P<part>validation|test))_(?P<kind>s1|s2|lc|dfc)_(?P<scene>0|validation|test)"
    r"_p(?P<patch>\d+)\.(?i:tiff?)"
)
_IGBP = ("igbp", "lccs_cover", "lccs_use", "lccs_hydrology")


@dataclass(frozen=True)
class Raw:
    """Files of one kind as the archive's documentation has them: bands in file order, and what their numbers are."""

    group: str
    sensor: str
    bands: tuple[str, ...]
    dtype: str  # used where no header says otherwise
    units: str


RAW: dict[Kind, Raw] = {
    "s1": Raw("s1_10m", "s1", BAND_ORDER["s1"], "float32", "db"),
    "s2": Raw("s2_10m", "s2", BAND_ORDER["s2"], "uint16", "dn"),  # B8A after B8, B9 and B10 after it: canonical
    "lc": Raw("lc_10m", "map", _IGBP, "uint8", "class"),
    "dfc": Raw("dfc_10m", "map", ("dfc",), "uint8", "class"),
}


@dataclass(frozen=True)
class Source:
    """One patch: the parts of its name, and its files by kind, below the root."""

    part: str  # "summer", "validation"
    scene: str
    patch: int
    files: dict[Kind, str] = field(default_factory=dict)


class Rois(Archive):
    """What SEN12MS and DFC2020 share. `kinds` are read of every patch; those in `stored` become groups."""

    pattern: re.Pattern[str]  # of a file name, with the groups part, kind, scene and patch
    example: str  # such a name, for messages

    def __init__(self, root: Path, kinds: tuple[Kind, ...], stored: tuple[Kind, ...]) -> None:
        if not root.is_dir():
            raise ValueError(f"{root} is no folder, expected an archive. Give the path of the unpacked archive.")
        self.root, self.kinds = root, kinds
        found = self._found([])
        if lacking := [kind for kind in kinds if not any(kind in source.files for source in found.values())]:
            raise ValueError(
                f"{root} holds no {lacking[0]} files, expected some named like {self.example}. Give the folder above "
                f"all scenes, unpack what is missing, or leave {lacking[0]} out with an --option."
            )
        self.group_of = {kind: self._group(kind, found) for kind in stored}
        self.groups = tuple(self.group_of.values())
        self.nomenclatures: dict[str, Nomenclature] = {}
        self.metadata_bytes = 1536
        self.damaged: Mapping[str, str] = {}  # patches that are left out by name, and why

    @abstractmethod
    def name_of(self, match: re.Match[str]) -> str:
        """The patch's name, equal for its files of all kinds."""

    @abstractmethod
    def split_of(self, source: Source) -> str:
        """The official split of a patch."""

    @abstractmethod
    def labels(self, rasters: Mapping[Kind, Raster]) -> dict[str, tuple[str, ...]]:
        """Labels from the maps among the rasters."""

    @abstractmethod
    def attributes(self, source: Source) -> dict[str, type_of_attribute]:
        """What filters may ask for, beside the files' names."""

    @final
    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """Patches by name; one that lacks a file and files of other names are faults, known damage is an exclusion."""
        faults: list[Fault] = []
        entries: list[Entry] = []
        for name, source in sorted(self._found(faults).items()):
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
        """One patch. PatchError for a missing, cut or odd file, and for files that do not show the same square."""
        source: Source = entry.source
        rasters = {kind: read_raster(self.root / source.files[kind]) for kind in self.kinds}
        first = rasters[self.kinds[0]]
        for kind, raster in rasters.items():
            _check_place(source.files[kind], raster, first)
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

    def _found(self, faults: list[Fault]) -> dict[str, Source]:
        """All patches by name, with the files of the kinds that are wanted."""
        found: dict[str, Source] = {}
        for path, file in _rasters(str(self.root), "", MOST_LEVELS):
            match = self.pattern.fullmatch(file)
            if match is None and any(pattern.fullmatch(file) for pattern in (SEN12MS_FILE, DFC2020_FILE)):
                continue  # both archives may lie in one folder, as the papers' code has them
            if match is None:
                hint = "; clouds (SEN12MS-CR) are not read" if "_cloudy_" in file else ""
                reason = f"the file name is none of the archive's, expected one like {self.example}{hint}"
                faults.append(Fault(path, reason))
                continue
            kind: Kind = match["kind"]  # type: ignore[assignment]
            if kind not in self.kinds:
                continue
            name = self.name_of(match)
            files = found.setdefault(name, Source(match["part"], match["scene"], int(match["patch"]))).files
            if kind in files:
                faults.append(Fault(path, f"is the {kind} of {name} too, as {files[kind]} is; the first one stays"))
            else:
                files[kind] = path
        return found

    def _group(self, kind: Kind, found: Mapping[str, Source]) -> Group:
        """The group of a kind: dtype and number of bands of most, the shape of all of up to MOST_HEADERS files."""
        paths = sorted(source.files[kind] for source in found.values() if kind in source.files)
        headers = [header for path in evenly(paths, MOST_HEADERS) if (header := read_header(self.root / path))]
        raw = RAW[kind]
        # A land cover file that was cut down to its first band is whole for whoever needs IGBP.
        single = sum(header.bands == 1 for header in headers) > len(headers) / 2
        bands = raw.bands[:1] if raw.sensor == "map" and single else raw.bands
        return Group(
            raw.group, raw.sensor, bands, common_dtype(headers, raw.dtype), common_shape(headers), GSD_M, raw.units
        )


def _rasters(folder: str, below: str, levels: int) -> Iterator[tuple[str, str]]:
    """(path below the root, file name) of every TIFF, by folder and name; hidden ones are not looked at."""
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


def _check_place(path: str, raster: Raster, first: Raster) -> None:
    """Same grid for all files of a patch: size, CRS, and bounds to half a pixel."""
    size, expected = raster.pixels.shape[1:], first.pixels.shape[1:]
    if size != expected:
        raise PatchError(f"{path}: {size} pixels, expected {expected} as its partner has. Download the patch again.")
    if raster.bounds is None or first.bounds is None:
        return
    half = (first.bounds[2] - first.bounds[0]) / expected[1] / 2
    if raster.crs != first.crs or np.abs(np.subtract(raster.bounds, first.bounds)).max() > abs(half):
        raise PatchError(
            f"{path}: lies at {raster.crs} {raster.bounds}, expected {first.crs} {first.bounds} as its partner does. "
            "Check the patch."
        )


def image_kinds(archive: str, sensors: tuple[Literal["s1", "s2"], ...]) -> tuple[Kind, ...]:
    """The kinds of images that the option `sensors` asks for, in order. ValueError for none, or one twice."""
    if not sensors or len(set(sensors)) != len(sensors):
        raise ValueError(f"{archive} got sensors {sensors}, expected s1, s2 or both once. Give sensors=s1,s2.")
    return tuple(sorted(sensors))
