"""The plan of a build, known before the first pixel is read: the entries of every shard, and the format.

The plan is stored in the folder of an unfinished build. A build is continued, and parts are merged, only under the same
plan. This makes the bytes of a shard set independent of workers, nodes and interruptions.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash
from pydantic import ValidationError

from rspretrain.archives.base import Archive, Entry, Nomenclature
from rspretrain.files import write_json
from rspretrain.patch import Fault
from rspretrain.sensors import Group
from rspretrain.settings import Settings
from rspretrain.shardset.manifest import BUILD_FOLDER, VERSION, GroupSpec, Layout, NomenclatureEntry
from rspretrain.shardset.record import RAW, fixed_layout, single_label

PLAN_NAME = "plan.json"


class Plan(Settings):
    """The part of a manifest that does not depend on pixels, and a checksum of the archive's entries."""

    version: int
    archive: str
    options: dict[str, str]
    codec: str
    shuffled: bool
    samples_per_shard: int
    entries: int
    entries_sha256: str  # over keys, names and sources (splits among them) of the listing, in shard order
    groups: tuple[GroupSpec, ...]
    nomenclatures: dict[str, NomenclatureEntry]
    layout: Layout | None

    @property
    def sha256(self) -> str:
        """The checksum of the plan."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json")).encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """Number of tars of the build."""
        return -(-self.entries // self.samples_per_shard)

    def shard_name(self, number: int) -> str:
        """The file name of a shard."""
        return f"{self.archive}-{number:06d}.tar"

    def sensor_groups(self) -> tuple[Group, ...]:
        """The groups as sensors.Group."""
        return tuple(Group(**group.model_dump()) for group in self.groups)


@dataclass(frozen=True)
class Listing:
    """The entries of an archive in shard order, and the faults found while listing."""

    entries: list[Entry]
    faults: list[Fault]


def list_entries(archive: Archive, *, shuffle: bool, samples_per_shard: int) -> Listing:
    """The entries of an archive in shard order.

    `shuffle` distributes them over shards by a hash of their keys, so that every shard is a random sample. Inside a
    shard they keep the archive's order, so that neighbours are read together (a scene is opened once); streaming
    shuffles inside shards anyway.
    """
    if samples_per_shard < 1:
        raise ValueError(f"samples_per_shard is {samples_per_shard}, expected at least 1. The default is 1024.")
    entries, faults = archive.entries()
    if not shuffle:
        return Listing(entries, faults)
    hashed = [(xxhash.xxh3_64_intdigest(entry.key.encode()), number) for number, entry in enumerate(entries)]
    order = [number for _, number in sorted(hashed)]
    chunks = (sorted(order[i : i + samples_per_shard]) for i in range(0, len(order), samples_per_shard))
    return Listing([entries[number] for chunk in chunks for number in chunk], faults)


def plan_build(archive: Archive, listing: Listing, *, samples_per_shard: int, shuffle: bool, codec: str) -> Plan:
    """The plan of a build."""
    digest = hashlib.sha256()
    for entry in listing.entries:
        digest.update(f"{entry.key}\0{entry.name}\0{entry.source!r}\n".encode())
    single = single_label(archive.nomenclatures)
    return Plan(
        version=VERSION,
        archive=archive.name,
        options=dict(archive.options),
        codec=codec,
        shuffled=shuffle,
        samples_per_shard=samples_per_shard,
        entries=len(listing.entries),
        entries_sha256=digest.hexdigest(),
        groups=tuple(GroupSpec(**vars(group)) for group in archive.groups),
        nomenclatures=nomenclature_entries(archive.nomenclatures),
        layout=fixed_layout(archive.groups, single, archive.metadata_bytes) if codec == RAW else None,
    )


def nomenclature_entries(nomenclatures: dict[str, Nomenclature]) -> dict[str, NomenclatureEntry]:
    """Nomenclatures in the form of plans and manifests."""
    return {name: NomenclatureEntry(names=n.names, multi=n.multi) for name, n in nomenclatures.items()}


def store_plan(folder: Path, plan: Plan) -> None:
    """Write the plan of an unfinished build."""
    write_json(folder / BUILD_FOLDER / PLAN_NAME, plan.model_dump(mode="json"), indent=1)


def load_plan(folder: Path) -> Plan | None:
    """The plan of the unfinished build in a folder; None if there is none, or this release cannot read it."""
    path = folder / BUILD_FOLDER / PLAN_NAME
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def differences(one: Plan, other: Plan) -> str:
    """The fields in which two plans differ, for an error message: 'codec: raw / zstd'."""
    left, right = one.model_dump(), other.model_dump()
    long: Sequence[str] = ("groups", "nomenclatures", "layout", "entries_sha256")
    texts = [name if name in long else f"{name}: {left[name]} / {right[name]}" for name in left]
    return "; ".join(text for name, text in zip(left, texts, strict=True) if left[name] != right[name])
