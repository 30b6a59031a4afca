"""manifest.json: what a shard set holds, and the fingerprints that tell a whole one from a damaged one."""

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
BUILD_FOLDER = ".build"  # of an unfinished build: its plan, and a receipt for every finished shard


class GroupSpec(Settings):
    """One group (see sensors.Group), as far as the archive tells it before anything is read."""

    name: str
    sensor: str
    bands: tuple[str, ...]
    dtype: str
    shape: tuple[int, int] | None  # None where images differ in size
    gsd_m: float | None
    units: str
    nodata: float | None


class GroupEntry(GroupSpec):
    """One group as it stands in the manifest."""

    max_shape: tuple[int, int]  # the largest height and the largest width of all samples


class NomenclatureEntry(Settings):
    """One list of class names; `multi` says whether a sample may have several of them."""

    names: tuple[str, ...]
    multi: bool

    def nomenclature(self) -> Nomenclature:
        """As the rest of the package knows it."""
        return Nomenclature(self.names, self.multi)


class Span(Settings):
    """Where the payload of a member lies in a record, in bytes from the record's start."""

    offset: int
    bytes: int


class Layout(Settings):
    """The stride of every uniform shard: all its records have this size and their members these places."""

    record_bytes: int
    members: dict[str, Span]


class ShardEntry(Settings):
    """One tar. `uniform` shards follow the manifest's layout, so that a record's place needs no look-up."""

    name: str
    samples: int
    bytes: int
    sha256: str
    uniform: bool


class Manifest(Settings):
    """The whole of manifest.json."""

    format: Literal["rspretrain-shards"]
    version: Literal[2]
    archive: str
    options: dict[str, str]  # what the archive was told beside its folders
    plan_sha256: str  # of the plan that was built: the same command on the same archive has the same
    codec: str  # of the arrays in the tars: "raw", "zstd", "bitshuffle-zstd"
    samples: int
    groups: tuple[GroupEntry, ...]
    nomenclatures: dict[str, NomenclatureEntry]
    splits: dict[str, int]  # split -> samples; samples without a split are not counted
    statistics_over: Literal["train", "all"]  # the samples that `statistics` were taken over
    statistics: dict[str, dict[str, BandStatistics]]  # group -> band
    layout: Layout | None  # None where no shard is uniform
    shards: tuple[ShardEntry, ...]
    index_sha256: str
    checksum: str  # SHA-256 of this file with an empty checksum

    def group(self, name: str) -> Group:
        """The group of that name, as the rest of the package knows it."""
        entry = next(entry for entry in self.groups if entry.name == name)
        return Group(**entry.model_dump(exclude={"max_shape"}))

    def nomenclature(self, name: str) -> Nomenclature:
        """The nomenclature of that name, as the rest of the package knows it."""
        return self.nomenclatures[name].nomenclature()


def dump_manifest(manifest: Manifest) -> bytes:
    """Deterministic JSON with its own checksum: the same manifest gives the same bytes."""
    return _json(manifest.model_copy(update={"checksum": checksum_of(manifest)}))


def checksum_of(manifest: Manifest) -> str:
    """SHA-256 of a manifest's JSON with an empty checksum."""
    return hashlib.sha256(_json(manifest.model_copy(update={"checksum": ""}))).hexdigest()


def _json(manifest: Manifest) -> bytes:
    return (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode()


def read_content(folder: Path) -> dict[str, Any]:
    """manifest.json as JSON, of whatever version. ValueError where there is none, or it is no manifest of ours."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(_why_not(folder))
    try:
        content = json.loads(path.read_bytes())
        found = (content.get("format"), content.get("version"))
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is not JSON. Restore it from a copy, or build the set again.") from None
    if found[0] != FORMAT:
        raise ValueError(f"{path} has format {found[0]!r}, expected {FORMAT!r}. Give the folder of a shard set.")
    return dict(content)


def _why_not(folder: Path) -> str:
    if (folder / BUILD_FOLDER).is_dir():
        return (
            f"{folder} is an unfinished build: the manifest is written last. Start the same `rspretrain build` command "
            "again and it goes on; the parts of a build are joined by `rspretrain merge`."
        )
    return (
        f"{folder} is not a shard set: it has no {MANIFEST_NAME}. Expected a folder that `rspretrain build` finished; "
        "check the path."
    )


def load_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest of a shard set and its bytes. ValueError where there is none, it is damaged, or another version."""
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
            f"{path} was changed after the build: its content has the checksum {checksum_of(manifest)[:12]}…, it says "
            f"{manifest.checksum[:12]}…. Restore it from a copy, or build the set again."
        )
    return manifest, path.read_bytes()
