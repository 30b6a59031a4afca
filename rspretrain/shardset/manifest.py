"""manifest.json: the description of a shard set, with the checksums of all its files."""

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from rspretrain.archives.base import Nomenclature
from rspretrain.sensors import Group
from rspretrain.settings import Settings
from rspretrain.shardset.statistics import BandStatistics

FORMAT: Final = "rspretrain-shards"
VERSION: Final = 2
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"
BUILD_FOLDER = ".build"  # of an unfinished build: its plan, and a receipt per finished shard


class GroupSpec(Settings):
    """One group (see sensors.Group), as known before any patch is read."""

    name: str
    sensor: str
    bands: tuple[str, ...]
    dtype: str
    shape: tuple[int, int] | None  # None if images differ in size
    gsd_m: float | None
    units: str
    nodata: float | None


class GroupEntry(GroupSpec):
    """One group in the manifest."""

    max_shape: tuple[int, int]  # largest height and largest width of all samples


class NomenclatureEntry(Settings):
    """One list of class names; `multi`: whether a sample may have several of them."""

    names: tuple[str, ...]
    multi: bool

    def nomenclature(self) -> Nomenclature:
        """The entry as a Nomenclature."""
        return Nomenclature(self.names, self.multi)


class Span(Settings):
    """Position of the payload of a member, in bytes from the start of the record."""

    offset: int
    bytes: int


class Layout(Settings):
    """The layout of uniform shards: size of all records, and positions of their members."""

    record_bytes: int
    members: dict[str, Span]


class ShardEntry(Settings):
    """One tar. Records of `uniform` shards have the layout of the manifest, so their positions are computed."""

    name: str
    samples: int
    bytes: int
    sha256: str
    uniform: bool


class Manifest(Settings):
    """The content of manifest.json."""

    format: Literal["rspretrain-shards"]
    version: Literal[2]
    archive: str
    options: dict[str, str]  # options of the archive
    plan_sha256: str  # of the plan of the build: equal for the same command on the same archive
    codec: str  # of the arrays in the tars, see `codecs`
    samples: int
    groups: tuple[GroupEntry, ...]
    nomenclatures: dict[str, NomenclatureEntry]
    splits: dict[str, int]  # split -> samples; samples without a split are not counted
    statistics_over: Literal["train", "all"]  # the samples that `statistics` cover
    statistics: dict[str, dict[str, BandStatistics]]  # group -> band
    layout: Layout | None  # None if no shard is uniform
    shards: tuple[ShardEntry, ...]
    index_sha256: str
    checksum: str  # SHA-256 of this file with an empty checksum

    def group(self, name: str) -> Group:
        """The group of that name."""
        entry = next(entry for entry in self.groups if entry.name == name)
        return Group(**entry.model_dump(exclude={"max_shape"}))

    def nomenclature(self, name: str) -> Nomenclature:
        """The nomenclature of that name."""
        return self.nomenclatures[name].nomenclature()


def dump_manifest(manifest: Manifest) -> bytes:
    """Deterministic JSON that includes its own checksum: equal manifests give equal bytes."""
    return _json(manifest.model_copy(update={"checksum": checksum_of(manifest)}))


def checksum_of(manifest: Manifest) -> str:
    """SHA-256 of a manifest's JSON with an empty checksum."""
    return hashlib.sha256(_json(manifest.model_copy(update={"checksum": ""}))).hexdigest()


def _json(manifest: Manifest) -> bytes:
    return (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode()


def read_content(folder: Path) -> dict[str, Any]:
    """Read manifest.json of any format version. ValueError if there is none, or it is not a manifest of this format."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(_not_finished(folder))
    try:
        content = json.loads(path.read_bytes())
        found = (content.get("format"), content.get("version"))
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is not JSON. Restore it from a copy, or build the set again.") from None
    if found[0] != FORMAT:
        raise ValueError(f"{path} has format {found[0]!r}, expected {FORMAT!r}. Give the folder of a shard set.")
    return dict(content)


def _not_finished(folder: Path) -> str:
    if (folder / BUILD_FOLDER).is_dir():
        return (
            f"{folder} is an unfinished build: the manifest is written last. Start the same `rspretrain build` command "
            "again to continue; `rspretrain merge` joins the parts of a build."
        )
    return (
        f"{folder} is not a shard set: it has no {MANIFEST_NAME}. Expected a folder that `rspretrain build` finished; "
        "check the path."
    )


def load_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """Read the manifest of a shard set, and its bytes. ValueError if it is missing, damaged, or of another version."""
    path = folder / MANIFEST_NAME
    content = read_content(folder)
    version = content.get("version")
    if version != VERSION:
        older = isinstance(version, int) and version < VERSION
        remedy = f"Run `rspretrain upgrade {folder}`" if older else "Use the release of rspretrain that wrote it"
        raise ValueError(f"{path} has version {version!r} of the format; this package reads {VERSION}. {remedy}.")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ValueError(
            f"{path} does not have the fields of version {VERSION} ({error.error_count()}, the first "
            f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}). Restore it from a copy, or build the set again."
        ) from None
    if manifest.checksum != checksum_of(manifest):
        raise ValueError(
            f"{path} was changed after the build: its content has the checksum {checksum_of(manifest)[:12]}…, expected "
            f"{manifest.checksum[:12]}…. Restore it from a copy, or build the set again."
        )
    return manifest, path.read_bytes()
