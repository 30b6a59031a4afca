"""Archive to shards: chunk the entries, write one tar a chunk, then the index, and the manifest last of all.

A chunk depends on nothing but its own entries, so chunks can be built by any number of processes and the bytes are the
same. Whatever cannot be converted whole is left out, named in build_report.json, and counted.
"""

import hashlib
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from rspretrain.archives.base import Archive, Entry, Nomenclature
from rspretrain.patch import Fault, PatchError
from rspretrain.shardset.index import Row, index_row, index_table
from rspretrain.shardset.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    GroupEntry,
    Manifest,
    NomenclatureEntry,
    ShardEntry,
    dump_manifest,
)
from rspretrain.shardset.record import END_OF_TAR, check_patch, encode, fixed_layout, follows

REPORT_NAME = "build_report.json"


@dataclass(frozen=True)
class BuildReport:
    """What a build did: `faults` are the patches that were left out, by name and reason."""

    out: Path
    found: int
    written: int
    faults: list[Fault]
    shards: int
    bytes: int


@dataclass(frozen=True)
class _Shard:
    """One finished tar: its line of the manifest, its rows of the index, and what was left out of it."""

    entry: ShardEntry
    rows: list[Row]
    faults: list[Fault]
    max_shapes: dict[str, tuple[int, int]]


def build_shards(
    archive: Archive,
    out: Path,
    *,
    samples_per_shard: int = 1024,
    shuffle: bool = True,
    workers: int = 1,
    progress: Callable[[int], None] = lambda samples: None,
) -> BuildReport:
    """Build a shard set from an archive. `shuffle` mixes the entries by their keys, so that a shard is a fair sample.

    The result is a function of the archive, `samples_per_shard` and `shuffle`; not of `workers`. `progress` is called
    with the number of entries done. ValueError where `out` holds anything already, or nothing could be converted.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(
            f"{out} is not empty: it holds {sorted(p.name for p in out.iterdir())[:3]}. A shard set is built into a "
            "new or empty folder; choose another --out, or remove this one."
        )
    entries, faults = archive.entries()
    found = len(entries) + len(faults)
    if shuffle:
        entries.sort(key=lambda entry: (xxhash.xxh3_64_intdigest(entry.key.encode()), entry.key))
    out.mkdir(parents=True, exist_ok=True)
    chunks = [entries[i : i + samples_per_shard] for i in range(0, len(entries), samples_per_shard)]
    shards = []
    for shard in _map(_build_shard, [(archive, out, number, chunk) for number, chunk in enumerate(chunks)], workers):
        shards.append(shard)
        faults += shard.faults
        progress(len(shard.rows) + len(shard.faults))
    written = sum(len(shard.rows) for shard in shards)
    report = BuildReport(out, found, written, faults, len(shards), sum(shard.entry.bytes for shard in shards))
    _write_atomically(out / REPORT_NAME, _report_json(archive, report))
    if not written:
        raise ValueError(_nothing_written(report))
    _write_index_and_manifest(archive, out, shards)
    return report


def _nothing_written(report: BuildReport) -> str:
    first = f"; the first was {report.faults[0].name}: {report.faults[0].reason}" if report.faults else ""
    return (
        f"No patch could be converted: {report.found} found, {len(report.faults)} left out{first}. Expected at least "
        f"one whole patch; check the source folder against the archive's layout ({REPORT_NAME} lists every reason)."
    )


def _map(
    function: Callable[..., _Shard], arguments: list[tuple[Archive, Path, int, list[Entry]]], workers: int
) -> Iterator[_Shard]:
    """`function` over `arguments`, in order; in processes of their own where there are several workers."""
    if workers <= 1:
        yield from (function(*each) for each in arguments)
        return
    # spawn, not fork: GDAL keeps threads and locks that a forked child would inherit in an unknown state.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, *zip(*arguments, strict=True))


def _build_shard(archive: Archive, out: Path, number: int, entries: list[Entry]) -> _Shard:
    name = f"{archive.name}-{number:06d}.tar"
    layout = fixed_layout(archive.groups, single_label(archive.nomenclatures), archive.metadata_bytes)
    rows: list[Row] = []
    faults: list[Fault] = []
    max_shapes = {group.name: (0, 0) for group in archive.groups}
    digest, position, uniform = hashlib.sha256(), 0, layout is not None
    temporary = out / f"{name}.tmp"
    with temporary.open("wb") as file:
        for entry in entries:
            try:
                patch = archive.read(entry)
                check_patch(patch, archive.groups, archive.nomenclatures)
                record = encode(patch, archive.groups, archive.nomenclatures, archive.metadata_bytes)
            except PatchError as error:
                faults.append(Fault(entry.name, str(error)))
                continue
            rows.append(index_row(patch, record, shard=number, record_number=len(rows), offset=position))
            for group, image in patch.images.items():
                height, width = max_shapes[group]
                max_shapes[group] = max(height, image.shape[1]), max(width, image.shape[2])
            uniform = uniform and follows(record, layout)
            file.write(record.data)
            digest.update(record.data)
            position += len(record.data)
        file.write(END_OF_TAR)
        digest.update(END_OF_TAR)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(out / name)
    size = position + len(END_OF_TAR)
    line = ShardEntry(name=name, samples=len(rows), bytes=size, sha256=digest.hexdigest(), uniform=uniform)
    return _Shard(line, rows, faults, max_shapes)


def single_label(nomenclatures: dict[str, Nomenclature]) -> bool:
    """Whether records of an archive hold a `.cls` member."""
    return any(not nomenclature.multi for nomenclature in nomenclatures.values())


def _write_index_and_manifest(archive: Archive, out: Path, shards: list[_Shard]) -> None:
    rows = [row for shard in shards for row in shard.rows]
    buffer = pa.BufferOutputStream()
    pq.write_table(index_table(rows), buffer, compression="zstd")
    index_bytes = buffer.getvalue().to_pybytes()
    _write_atomically(out / INDEX_NAME, index_bytes)
    manifest = Manifest(
        format="rspretrain-shards",
        version=1,
        archive=archive.name,
        samples=len(rows),
        groups=tuple(_group_entry(archive, number, shards) for number in range(len(archive.groups))),
        nomenclatures={
            name: NomenclatureEntry(names=n.names, multi=n.multi) for name, n in archive.nomenclatures.items()
        },
        splits=dict(sorted(Counter(row["split"] for row in rows if row["split"] is not None).items())),
        layout=fixed_layout(archive.groups, single_label(archive.nomenclatures), archive.metadata_bytes),
        shards=tuple(shard.entry for shard in shards),
        index_sha256=hashlib.sha256(index_bytes).hexdigest(),
    )
    _write_atomically(out / MANIFEST_NAME, dump_manifest(manifest))


def _group_entry(archive: Archive, number: int, shards: list[_Shard]) -> GroupEntry:
    group = archive.groups[number]
    shapes = [shard.max_shapes[group.name] for shard in shards]
    return GroupEntry(**vars(group), max_shape=(max(height for height, _ in shapes), max(width for _, width in shapes)))


def _report_json(archive: Archive, report: BuildReport) -> bytes:
    content: dict[str, Any] = {
        "archive": archive.name,
        "found": report.found,
        "written": report.written,
        "left_out": len(report.faults),
        "faults": [vars(fault) for fault in report.faults],
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
