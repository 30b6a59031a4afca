"""Upgrade shard sets of older format versions in place: index and manifest are created again from the tars.

    1 -> 2   the tars do not change; the index gets degrees and GeoParquet footprints, the manifest statistics of
             every band, the codec, the plan, and a checksum of itself

Nothing is written before every tar has been verified. The index is replaced first and the manifest last, so that a
killed upgrade can be started again.
"""

import hashlib
import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rspretrain.sensors import Group
from rspretrain.settings import Settings
from rspretrain.shardset.building.assemble import write_index_and_manifest
from rspretrain.shardset.building.plan import Plan
from rspretrain.shardset.building.receipt import Receipt, ShardStatistics
from rspretrain.shardset.manifest import VERSION, GroupSpec, Layout, NomenclatureEntry, ShardEntry, read_content
from rspretrain.shardset.record import RAW, decode_array
from rspretrain.shardset.rows import Row, shard_table
from rspretrain.shardset.scan import Contents, scan_shard

UPGRADABLE = (1,)


class _GroupV1(Settings):
    name: str
    sensor: str
    bands: tuple[str, ...]
    dtype: str
    shape: tuple[int, int] | None
    max_shape: tuple[int, int]
    gsd_m: float | None
    units: str


class _ManifestV1(Settings):
    format: str
    version: int
    archive: str
    samples: int
    groups: tuple[_GroupV1, ...]
    nomenclatures: dict[str, NomenclatureEntry]
    splits: dict[str, int]
    layout: Layout | None
    shards: tuple[ShardEntry, ...]
    index_sha256: str


def upgrade(folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Upgrade a shard set to the current version, and return its previous version.

    `progress` gets the numbers of finished and of all samples. ValueError if it is not a shard set, damaged, or of an
    unknown version; then nothing has been changed.
    """
    content = read_content(folder)
    version = content.get("version")
    if version == VERSION:
        return VERSION
    if version not in UPGRADABLE:
        raise ValueError(
            f"{folder} has version {version!r} of the format, expected one of {(*UPGRADABLE, VERSION)}. Use the "
            "release of rspretrain that wrote it."
        )
    old = _parse(folder, content)
    plan = _plan(old)
    receipts: list[Receipt] = []
    progress(0, old.samples)
    for number, entry in enumerate(old.shards):
        receipts.append(_receipt(folder, entry, number, plan))
        progress(sum(receipt.entry.samples for receipt in receipts), old.samples)
    write_index_and_manifest(plan, receipts, folder)
    return int(version)


def _parse(folder: Path, content: dict[str, Any]) -> _ManifestV1:
    try:
        return _ManifestV1.model_validate(content)
    except ValidationError as error:
        raise ValueError(
            f"The manifest of {folder} does not have the fields of version 1: {error}. Restore it from a copy."
        ) from None


def _plan(old: _ManifestV1) -> Plan:
    """The plan of a version 1 build, as far as its manifest records it."""
    return Plan(
        version=VERSION,
        archive=old.archive,
        options={},
        codec=RAW,
        shuffled=True,
        samples_per_shard=max(entry.samples for entry in old.shards),
        entries=old.samples,
        entries_sha256="",  # not recorded
        groups=tuple(GroupSpec(**group.model_dump(exclude={"max_shape"}), nodata=None) for group in old.groups),
        nomenclatures=old.nomenclatures,
        layout=old.layout,
    )


def _receipt(folder: Path, entry: ShardEntry, number: int, plan: Plan) -> Receipt:
    """The receipt that the current builder would have written for a shard."""
    groups = plan.sensor_groups()
    contents = Contents(groups, {name: n.nomenclature() for name, n in plan.nomenclatures.items()}, plan.codec)
    path = folder / entry.name
    if not path.is_file() or path.stat().st_size != entry.bytes:
        raise ValueError(f"{path} is missing or not {entry.bytes:,} bytes long. Restore it from a copy, then upgrade.")
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as data,
    ):
        scan = scan_shard(data, entry.name, number, contents)
        if hashlib.sha256(data).hexdigest() != entry.sha256 or scan.faults or len(scan.rows) != entry.samples:
            reason = "; ".join(f"{fault.name} {fault.reason}" for fault in scan.faults[:3]) or "its SHA-256 differs"
            raise ValueError(f"{path} is damaged ({reason}). Restore it from a copy, then upgrade.")
        statistics = ShardStatistics(groups)
        for row in scan.rows:
            statistics.add(row["split"], _images(data, row, groups))
    return Receipt(entry, shard_table(scan.rows), [], [], statistics.max_shapes, statistics.tallies)


def _images(data: memoryview, row: Row, groups: Sequence[Group]) -> dict[str, Any]:
    spans = {group.name: (row[f"offset_{group.name}"], row[f"bytes_{group.name}"]) for group in groups}
    # Copies, because views would keep the mapping open.
    return {name: decode_array(bytes(data[start : start + size])) for name, (start, size) in spans.items()}
