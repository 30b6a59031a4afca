"""Verify every byte of a shard set against its checksums, and its structure against its manifest.

The manifest has checksums of itself, of the index and of every tar; the index has one per record, and the JSON of a
record one per array. So damage is located, and distinguished from a shard set that was built incorrectly.
"""

import hashlib
import json
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rspretrain.patch import Fault
from rspretrain.shardset.building.assemble import REPORT_NAME
from rspretrain.shardset.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardEntry,
    dump_manifest,
    load_manifest,
)
from rspretrain.shardset.rows import DERIVED, shard_table, with_footprints
from rspretrain.shardset.scan import Contents, Scan, scan_shard

_OWN_FILES = {MANIFEST_NAME, INDEX_NAME, REPORT_NAME}


@dataclass(frozen=True)
class _Context:
    """The reference for every shard. `index` is None if it does not match the manifest."""

    folder: Path
    manifest: Manifest
    contents: Contents
    index: pa.Table | None


def verify(
    folder: Path, workers: int = 1, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Fault]:
    """All faults of a shard set; empty if every byte is as it was built.

    `progress` gets the numbers of checked and of all samples.
    """
    try:
        manifest, data = load_manifest(folder)
    except ValueError as error:
        return [Fault(MANIFEST_NAME, str(error))]
    faults = (
        [] if data == dump_manifest(manifest) else [Fault(MANIFEST_NAME, "does not have the bytes that were written")]
    )
    context = _Context(folder, manifest, _contents(manifest), _read_index(folder, manifest, faults))
    faults += _unknown_files(folder, manifest)
    owner: dict[str, tuple[str, bool]] = {}
    done = 0
    progress(done, manifest.samples)
    with ThreadPoolExecutor(workers) as pool:  # hashing, which takes most of the time, releases the GIL
        jobs = [pool.submit(_verify_shard, context, number) for number in range(len(manifest.shards))]
        for entry, job in zip(manifest.shards, jobs, strict=True):
            keys, found = job.result()
            faults += found
            faults += _shared_keys(entry.name, keys, owner)
            done += entry.samples
            progress(done, manifest.samples)
    return faults


def _contents(manifest: Manifest) -> Contents:
    nomenclatures = {name: manifest.nomenclature(name) for name in manifest.nomenclatures}
    return Contents([manifest.group(entry.name) for entry in manifest.groups], nomenclatures, manifest.codec)


def _read_index(folder: Path, manifest: Manifest, faults: list[Fault]) -> pa.Table | None:
    path = folder / INDEX_NAME
    if not path.is_file():
        faults.append(Fault(INDEX_NAME, "is missing"))
        return None
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        faults.append(
            Fault(INDEX_NAME, "does not match the manifest: one of the two was changed, or is from another build")
        )
        return None
    table = pq.read_table(pa.BufferReader(data))
    if table.num_rows != manifest.samples:
        faults.append(Fault(INDEX_NAME, f"has {table.num_rows} rows, the manifest counts {manifest.samples} samples"))
    plain = table.select([name for name in table.column_names if name not in DERIVED])
    if not with_footprints(plain).equals(table):
        faults.append(Fault(INDEX_NAME, "has lon, lat or geometry that do not match its bounds"))
    return table


def _unknown_files(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    known = {entry.name for entry in manifest.shards}
    for path in sorted(folder.iterdir()):
        if path.name not in known | _OWN_FILES:
            yield Fault(path.name, "is not in the manifest")
    report = folder / REPORT_NAME
    if report.is_file():
        try:
            content = json.loads(report.read_bytes())
            fits = content["found"] - content["left_out"] - content.get("excluded", 0) == manifest.samples
        except (ValueError, KeyError, TypeError, AttributeError):
            fits = False
        if not fits:
            yield Fault(REPORT_NAME, f"does not add up to the {manifest.samples} samples of the manifest")


def _verify_shard(context: _Context, number: int) -> tuple[dict[str, bool], list[Fault]]:
    """The keys of one shard (see Scan.keys), and its faults."""
    entry = context.manifest.shards[number]
    path = context.folder / entry.name
    if not path.is_file():
        return {}, [Fault(entry.name, f"is missing, with {entry.samples} samples")]
    if not path.stat().st_size:
        return {}, [Fault(entry.name, "is empty")]
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as data,
    ):
        digest, size = hashlib.sha256(data).hexdigest(), len(data)
        scan = scan_shard(data, entry.name, number, context.contents)
    faults = list(scan.faults)
    named = {fault.name.partition(".tar:")[2].partition(".")[0] for fault in faults}
    if (other_name := _swapped_with(context.manifest, entry, digest)) is not None:
        return scan.keys, [Fault(entry.name, f"holds the bytes of {other_name}: shards were swapped or overwritten")]
    faults += [
        fault for key, fault in _compare_with_index(context, number, scan, digest == entry.sha256) if key not in named
    ]
    if size != entry.bytes:
        faults.append(Fault(entry.name, f"has {size} bytes, expected {entry.bytes}"))
    elif digest != entry.sha256 and not faults:
        faults.append(Fault(entry.name, "does not have the SHA-256 of the manifest"))
    elif digest == entry.sha256 and len(scan.rows) != entry.samples:
        faults.append(Fault(entry.name, f"has {len(scan.rows)} samples, the manifest counts {entry.samples}"))
    return scan.keys, faults


def _swapped_with(manifest: Manifest, entry: ShardEntry, digest: str) -> str | None:
    """The name of another shard with this SHA-256 in the manifest."""
    if digest == entry.sha256:
        return None
    return next((other.name for other in manifest.shards if other.sha256 == digest), None)


def _compare_with_index(
    context: _Context, number: int, scan: Scan, bytes_are_intact: bool
) -> Iterator[tuple[str, Fault]]:
    """(key, fault) for every difference between the parsed rows and the rows in the index."""
    if context.index is None:
        return
    name = context.manifest.shards[number].name
    listed = {row["key"]: row for row in _rows_of_shard(context.index, number)}
    scanned = {row["key"]: row for row in shard_table(scan.rows).to_pylist()}
    for key, row in scanned.items():
        if key not in listed:
            yield key, Fault(f"{name}:{key}", "is not in the index")
            continue
        columns = [column for column in listed[key] if listed[key][column] != row.get(column)]
        if columns and bytes_are_intact:
            yield key, Fault(f"{name}:{key}", f"the index is stale: its {', '.join(columns)} differ from the record")
        elif columns:
            yield key, Fault(f"{name}:{key}.json", _what_changed(columns))
    for key in listed.keys() - scanned.keys():
        yield key, Fault(f"{name}:{key}", "is in the index but not in the shard")


def _rows_of_shard(index: pa.Table, number: int) -> list[dict[str, Any]]:
    plain = index.drop_columns([name for name in DERIVED if name in index.column_names])
    positions = np.flatnonzero(plain.column("shard").to_numpy() == number)
    # Rows are sorted by shard, unless the index is damaged. A slice is cheap for any size of the set.
    together = len(positions) and positions[-1] - positions[0] + 1 == len(positions)
    selected = plain.slice(positions[0], len(positions)) if together else plain.take(positions)
    rows: list[dict[str, Any]] = selected.to_pylist()
    return rows


def _what_changed(columns: list[str]) -> str:
    rest = [column for column in columns if column != "checksum"]
    return f"has changed: {', '.join(rest)}" if rest else "has changed, or the padding between members"


def _shared_keys(shard: str, keys: dict[str, bool], owner: dict[str, tuple[str, bool]]) -> Iterator[Fault]:
    """Keys that occur in more than one shard."""
    for key, complete in keys.items():
        if key not in owner:
            owner[key] = shard, complete
            continue
        other, other_complete = owner[key]
        reason = (
            f"is also in {other}" if complete and other_complete else f"is split: some of its members are in {other}"
        )
        yield Fault(f"{shard}:{key}", reason)
