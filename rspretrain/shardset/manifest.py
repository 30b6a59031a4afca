"""manifest.json: what a shard set holds, and the fingerprints that tell a whole one from a damaged one."""

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rspretrain.archives.base import Nomenclature
from rspretrain.sensors import Group
from rspretrain.settings import Settings

FORMAT = "rspretrain-shards"
VERSION = 1
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"


class GroupEntry(Settings):
    """One group (see sensors.Group) as it stands in the manifest."""

    name: str
    sensor: str
    bands: tuple[str, ...]
    dtype: str
    shape: tuple[int, int] | None  # None where images differ in size
    max_shape: tuple[int, int]  # the largest height and the largest width of all samples
    gsd_m: float | None
    units: str
    nodata: float | None = None


class NomenclatureEntry(Settings):
    """One list of class names; `multi` says whether a sample may have several of them."""

    names: tuple[str, ...]
    multi: bool


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
    version: Literal[1]
    archive: str
    samples: int
    groups: tuple[GroupEntry, ...]
    nomenclatures: dict[str, NomenclatureEntry]
    splits: dict[str, int]  # split -> samples; samples without a split are not counted
    layout: Layout | None  # None where no shard is uniform
    shards: tuple[ShardEntry, ...]
    index_sha256: str

    def group(self, name: str) -> Group:
        """The group of that name, as the rest of the package knows it."""
        entry = next(entry for entry in self.groups if entry.name == name)
        return Group(**entry.model_dump(exclude={"max_shape"}))

    def nomenclature(self, name: str) -> Nomenclature:
        """The nomenclature of that name, as the rest of the package knows it."""
        entry = self.nomenclatures[name]
        return Nomenclature(entry.names, entry.multi)


def dump_manifest(manifest: Manifest) -> bytes:
    """Deterministic JSON: the same manifest gives the same bytes."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode()


def load_manifest(folder: Path) -> tuple[Manifest, bytes]:
    """The manifest of a shard set and its bytes. ValueError where there is none, or of another version."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a shard set: it has no {MANIFEST_NAME}. Expected a folder that shards/build.py finished "
            "(the manifest is written last, so an interrupted build has none); build it again into a new folder."
        )
    data = path.read_bytes()
    try:
        content = json.loads(data)
        found = (content.get("format"), content.get("version"))
    except (ValueError, AttributeError):
        raise ValueError(f"{path} is not JSON. Restore it from a copy, or build the set again.") from None
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"{path} has format {found[0]!r} version {found[1]!r}; this package reads {FORMAT!r} version {VERSION}. "
            "Use the release of rspretrain that wrote it, or build the set again with shards/build.py."
        )
    try:
        return Manifest.model_validate(content), data
    except ValidationError as error:
        raise ValueError(f"{path} does not have the fields of version {VERSION}: {error}") from None
