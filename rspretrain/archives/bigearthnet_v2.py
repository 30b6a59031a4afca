"""BigEarthNet v2 (reBEN): Sentinel-2, Sentinel-1 or pairs, and the CORINE reference map of every patch.

Clasen et al. 2024; docs/methods.md, BigEarthNet v2. Labels, splits and partners are in a Parquet table, dates in the
patch names, which are matched by pattern. Splits are geographic and labels have no minimum area, so results are not
comparable with those of v1.
"""

import itertools
import re
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rspretrain.archives.base import Archive, Entry
from rspretrain.archives.corine import NOMENCLATURES, sort_labels
from rspretrain.archives.headers import common_dtype, read_header
from rspretrain.archives.sentinel import (
    MAP_GROUPS,
    S1_GROUPS,
    S2_GROUPS,
    PatchFolder,
    band_file,
    find_folder,
    folders_in,
    read_patch_folders,
    season_of,
)
from rspretrain.patch import Exclusion, Fault, Patch, PatchError, key_of
from rspretrain.sensors import Group

S2_FOLDER, S1_FOLDER, MAP_FOLDER = "BigEarthNet-S2", "BigEarthNet-S1", "Reference_Maps"
TABLE, SECOND_TABLE = "metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
_SPLIT_OF = {"train": "train", "validation": "val", "test": "test"}
# A patch is in the folder of its tile (Sentinel-2, maps) or scene (Sentinel-1), and its name begins with that name.
_TILE = r"S2[AB]_MSIL2A_(?P<date>\d{8}T\d{6})_N\d{4}_R\d{3}_T\d{2}[A-Z]{3}"
_SCENE = r"S1[AB]_IW_GRDH_1SDV_(?P<date>\d{8}T\d{6})"
_S2_NAME = re.compile(rf"(?P<parent>{_TILE})_\d{{1,3}}_\d{{1,3}}")
_S1_NAME = re.compile(rf"(?P<parent>{_SCENE})_\d{{2}}[A-Z]{{3}}_\d{{1,3}}_\d{{1,3}}")


@dataclass(frozen=True, slots=True)
class Source:
    """One row of the table, in the order of the columns."""

    patch_id: str
    s1_name: str
    s2v1_name: str
    labels: tuple[str, ...]
    split: str
    country: str
    contains_seasonal_snow: bool
    contains_cloud_or_shadow: bool


_TYPES: dict[Any, pa.DataType] = {str: pa.string(), bool: pa.bool_(), tuple[str, ...]: pa.list_(pa.string())}
# Tables are cast to these types: writers also store large strings, dictionaries, and flags as 0 and 1.
SCHEMA = pa.schema([(name, _TYPES[field.type]) for name, field in Source.__dataclass_fields__.items()])
COLUMNS = tuple(SCHEMA.names)
_MAX_MAPS = 64  # reference maps whose headers determine the dtype


@final
class BigEarthNetV2(Archive):
    """Patches of 1.2 km in ten European countries with 19 CORINE classes per patch, and CORINE codes per pixel.

    `metadata` is `metadata.parquet` or its folder; `s2`, `s1` and `maps` are `BigEarthNet-S2`, `BigEarthNet-S1` and
    `Reference_Maps`, or their parent folders. Without any of the three, the folders beside the table are used. With
    both sensors, only complete pairs are patches. The reference map is stored unchanged: codes 111 to 523, and 999 for
    unlabelled pixels (which include the 11 classes outside the 19).

    The download also has 69,450 patches with snow, cloud or shadow that are not in the main table but in a second one
    beside it. `include_snow_cloud` adds them.
    """

    def __init__(
        self,
        metadata: Path,
        s2: Path | None = None,
        s1: Path | None = None,
        maps: Path | None = None,
        include_snow_cloud: bool = False,
    ) -> None:
        self.name = "bigearthnet-v2"
        self.table = Path(metadata) / TABLE if Path(metadata).is_dir() else Path(metadata)
        if not self.table.is_file():
            raise ValueError(
                f"{self.table} is not a file, expected BigEarthNet v2's {TABLE}. Give metadata=<its path>."
            )
        self.second_table, self.include_snow_cloud = self.table.with_name(SECOND_TABLE), include_snow_cloud
        if include_snow_cloud and not self.second_table.is_file():
            raise ValueError(f"include_snow_cloud needs {self.second_table}, which is missing. Put it there.")
        if s2 is s1 is maps is None:
            folder = self.table.parent
            s2, s1, maps = (
                folder / name if (folder / name).is_dir() else None for name in (S2_FOLDER, S1_FOLDER, MAP_FOLDER)
            )
        if s2 is None and s1 is None:
            raise ValueError(
                f"bigearthnet-v2 got no images, expected {S2_FOLDER} or {S1_FOLDER} beside {self.table}, or their own "
                "paths. Give s2=<folder>, s1=<folder> or both."
            )
        self.s2 = None if s2 is None else find_folder(Path(s2), S2_FOLDER)
        self.s1 = None if s1 is None else find_folder(Path(s1), S1_FOLDER)
        self.maps = None if maps is None else find_folder(Path(maps), MAP_FOLDER)
        self.groups = (
            (S1_GROUPS if self.s1 else ())
            + (S2_GROUPS if self.s2 else ())
            + (_map_groups(self.maps) if self.maps else ())
        )
        self.nomenclatures = {"19": NOMENCLATURES["19"]}
        self.metadata_bytes = 2048

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        """Patches (complete pairs, given both sensors), sorted by key. With Sentinel-2, its folder gives the name.

        Faults: unpaired patches, folders in no table, unexpected folder names. Rows of patches that are not on disk are
        ignored. ValueError if a table is unusable.
        """
        faults: list[Fault] = []
        s2, s1 = self._on_disk(faults)
        table = self._read_tables()
        sources = _sources(table.filter(_on_disk_mask(table, s2, s1)))
        entries: list[Entry] = []
        for source in sources:
            if self.s1 and source.s1_name not in s1:
                unpaired = f"Sentinel-2 patch without its Sentinel-1 partner {source.s1_name}"
                faults.append(Fault(source.patch_id, unpaired))
            elif self.s2 and source.patch_id not in s2:
                unpaired = f"Sentinel-1 patch without its Sentinel-2 partner {source.patch_id}"
                faults.append(Fault(source.s1_name, unpaired))
            else:
                name = source.patch_id if self.s2 else source.s1_name
                entries.append(Entry(key_of(name), name, source))
        known = {name for source in sources for name in (source.patch_id, source.s1_name)}
        faults += self._unlisted_folders(sorted((s2 | s1) - known))
        return sorted(entries, key=lambda entry: entry.key), faults

    def read(self, entry: Entry) -> Patch:
        """Read one patch.

        PatchError for a missing or damaged file, an unknown label or name, or files at different locations.
        """
        source: Source = entry.source
        parts: list[PatchFolder] = []
        dates: dict[str, datetime] = {}
        for root, pattern, name, groups in (
            (self.s2, _S2_NAME, source.patch_id, S2_GROUPS),
            (self.s1, _S1_NAME, source.s1_name, S1_GROUPS),
            (self.maps, _S2_NAME, source.patch_id, self.groups[-1:]),
        ):
            if root is not None:
                parent, dates[groups[0].sensor] = _parse(pattern, name)
                parts.append((root / parent / name, groups))
        images, rasters = read_patch_folders(parts)
        return Patch(
            entry.key,
            {group.name: images[group.name] for group in self.groups},
            {"19": _labels(source)},
            source.split,
            rasters[0].crs,
            rasters[0].bounds,
            _attributes(source, dates),
        )

    def _on_disk(self, faults: list[Fault]) -> tuple[set[str], set[str]]:
        """Names of all Sentinel-2 and all Sentinel-1 patches on disk (none for an unused sensor)."""
        s2 = set() if self.s2 is None else _scan(self.s2, _TILE, _S2_NAME, faults)
        return s2, set() if self.s1 is None else _scan(self.s1, _SCENE, _S1_NAME, faults)

    def _read_tables(self) -> pa.Table:
        """The rows of all patches. ValueError if a patch has two rows."""
        paths = [self.table, self.second_table] if self.include_snow_cloud else [self.table]
        table = pa.concat_tables([_read_table(path) for path in paths])
        for column in ("patch_id", "s1_name"):
            if (repeated := len(table) - pc.count_distinct(table[column]).as_py()) > 0:
                names = " and ".join(path.name for path in paths)
                raise ValueError(f"{names}: {repeated} values of {column} are repeated, expected none. Download again.")
        return table

    def _unlisted_folders(self, names: list[str]) -> list[Fault]:
        """Faults for folders without a row; exclusions for those in the table of snow and cloud."""
        if not names:
            return []
        if not self.second_table.is_file():
            hint = f"put {SECOND_TABLE} beside it if these have snow or cloud, else remove the folder"
            return [Fault(name, f"has no row in {self.table.name}; {hint}") for name in names]
        second = _read_table(self.second_table)
        known = {name for column in ("patch_id", "s1_name") for name in second[column].to_pylist()}
        reason = f"has no row in {self.table.name} and {SECOND_TABLE}; complete the tables or remove the folder"
        excluded = "has snow, cloud or shadow; include_snow_cloud=true includes it"
        return [Exclusion(name, excluded) if name in known else Fault(name, reason) for name in names]


def _map_groups(root: Path) -> tuple[Group, ...]:
    """MAP_GROUPS with the dtype of the files."""
    folders = (root / tile / name for tile in folders_in(root) for name in folders_in(root / tile))
    headers = [read_header(band_file(folder, "clc")) for folder in itertools.islice(folders, _MAX_MAPS)]
    return tuple(replace(group, dtype=common_dtype(headers, group.dtype)) for group in MAP_GROUPS)


def _scan(root: Path, parents: str, pattern: re.Pattern[str], faults: list[Fault]) -> set[str]:
    """Names of the patch folders in all tile or scene folders; other folders are faults."""
    found = set()
    for parent in folders_in(root):
        if not re.fullmatch(parents, parent):
            faults.append(Fault(parent, f"the folder name is not a tile or scene, expected {parents}"))
            continue
        for name in folders_in(root / parent):
            match = pattern.fullmatch(name)
            if match is None:
                faults.append(Fault(name, f"the folder name is not a patch name, expected {pattern.pattern}"))
            elif match["parent"] != parent:
                faults.append(Fault(name, f"is in {parent}, expected {match['parent']}; move it there"))
            else:
                found.add(name)
    return found


def _read_table(path: Path) -> pa.Table:
    """Read the needed columns. ValueError if a column is missing, a cell is empty or a split is unknown."""
    try:
        given = pq.read_schema(path).names
        if missing := [column for column in COLUMNS if column not in given]:
            raise ValueError(f"{path} has no columns {missing}, expected {list(COLUMNS)}. Download the table again.")
        table = pq.read_table(path, columns=list(COLUMNS)).select(COLUMNS).cast(SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}), expected BigEarthNet v2's table. Download it.") from None
    if empty := [column for column in COLUMNS if table[column].null_count]:
        raise ValueError(f"{path} has empty cells in {empty}, expected none. Download the table again.")
    if unknown := sorted(set(pc.unique(table["split"]).to_pylist()).difference(_SPLIT_OF)):
        raise ValueError(f"{path} has the splits {unknown}, expected {list(_SPLIT_OF)}. Download the table again.")
    return table


def _on_disk_mask(table: pa.Table, s2: set[str], s1: set[str]) -> pa.ChunkedArray:
    """[rows] Whether a sensor of the row is on disk."""
    patches, scenes = pa.array(sorted(s2), pa.string()), pa.array(sorted(s1), pa.string())
    return pc.or_(pc.is_in(table["patch_id"], patches), pc.is_in(table["s1_name"], scenes))


def _sources(table: pa.Table) -> list[Source]:
    columns = {column: table[column].to_pylist() for column in COLUMNS}
    columns["split"] = [_SPLIT_OF[split] for split in columns["split"]]
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # 480,038 rows have 5,350 different label sets
    columns["labels"] = [shared.setdefault(labels, labels) for labels in map(tuple, columns["labels"])]
    return [Source(*row) for row in zip(*columns.values(), strict=True)]


def _parse(pattern: re.Pattern[str], name: str) -> tuple[str, datetime]:
    """The parent folder of a patch, and its acquisition date."""
    match = pattern.fullmatch(name)
    if match is None:
        raise PatchError(f"{name} is not a patch name, expected {pattern.pattern}. Repair the table.")
    try:
        return match["parent"], datetime.strptime(match["date"], "%Y%m%dT%H%M%S")
    except ValueError:
        raise PatchError(f"{name}: no date in {match['date']!r}, expected YYYYMMDDThhmmss. Repair its name.") from None


def _labels(source: Source) -> tuple[str, ...]:
    if not all(source.labels or ("",)):
        raise PatchError(f"{source.patch_id}: no labels, expected CORINE names. Repair the table.")
    try:
        return sort_labels(source.labels, "19")
    except ValueError as error:
        raise PatchError(f"{source.patch_id}: {error}. Repair the table or leave the patch out.") from None


def _attributes(source: Source, dates: dict[str, datetime]) -> dict[str, str | int | float | None]:
    """The other columns of the row, and the dates of the used sensors."""
    return {
        "s2_name": source.patch_id,
        "s1_name": source.s1_name,
        "s2v1_name": source.s2v1_name,
        **{f"{sensor}_date": dates[sensor].isoformat() for sensor in ("s2", "s1") if sensor in dates},
        "season": season_of(next(iter(dates.values()))),
        "country": source.country,
        "contains_seasonal_snow": int(source.contains_seasonal_snow),
        "contains_cloud_or_shadow": int(source.contains_cloud_or_shadow),
    }
