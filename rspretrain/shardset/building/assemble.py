"""Finish a shard set from the receipts of its shards: write the report, the index, and last the manifest."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rspretrain.files import write_atomically, write_json
from rspretrain.patch import Exclusion, Fault
from rspretrain.shardset.building.plan import Plan
from rspretrain.shardset.building.receipt import REST, TRAIN, Receipt
from rspretrain.shardset.manifest import (
    FORMAT,
    INDEX_NAME,
    MANIFEST_NAME,
    VERSION,
    GroupEntry,
    GroupSpec,
    Manifest,
    dump_manifest,
)
from rspretrain.shardset.rows import finished_table
from rspretrain.shardset.statistics import Tally

REPORT_NAME = "build_report.json"
ROW_GROUP = 65_536  # rows per row group of the index, the unit that readers with filters skip


@dataclass(frozen=True)
class BuildReport:
    """The result of a build. `faults`: patches that could not be converted; `excluded`: by options of the user."""

    out: Path
    found: int
    written: int
    faults: list[Fault]
    excluded: list[Fault]
    shards: int
    bytes: int


class NothingWrittenError(ValueError):
    """No patch of an archive could be converted; the folder holds only the report."""


def make_report(out: Path, listing_faults: list[Fault], receipts: Sequence[Receipt]) -> BuildReport:
    """The report of all receipts."""
    faults = [fault for fault in listing_faults if not isinstance(fault, Exclusion)]
    excluded: list[Fault] = [fault for fault in listing_faults if isinstance(fault, Exclusion)]
    for receipt in receipts:
        faults += receipt.faults
        excluded += receipt.excluded
    written = sum(receipt.entry.samples for receipt in receipts)
    size = sum(receipt.entry.bytes for receipt in receipts)
    return BuildReport(out, written + len(faults) + len(excluded), written, faults, excluded, len(receipts), size)


def assemble(plan: Plan, receipts: Sequence[Receipt], listing_faults: list[Fault], out: Path) -> BuildReport:
    """Finish a shard set whose tars are all in `out`. NothingWrittenError if no patch could be converted."""
    report = make_report(out, listing_faults, receipts)
    write_json(out / REPORT_NAME, report_json(plan.archive, report), indent=1)
    if not report.written:
        for receipt in receipts:
            (out / receipt.entry.name).unlink()
        raise NothingWrittenError(_nothing_written(report))
    write_index_and_manifest(plan, receipts, out)
    return report


def write_index_and_manifest(plan: Plan, receipts: Sequence[Receipt], out: Path) -> None:
    """Write the index, then the manifest."""
    table = finished_table([receipt.rows for receipt in receipts if receipt.entry.samples])
    index = index_bytes(table)
    write_atomically(out / INDEX_NAME, index)
    manifest = manifest_of(plan, receipts, table, hashlib.sha256(index).hexdigest())
    write_atomically(out / MANIFEST_NAME, dump_manifest(manifest))


def index_bytes(table: pa.Table) -> bytes:
    """The index as a Parquet file. Equal tables give equal bytes."""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
    return bytes(buffer.getvalue().to_pybytes())


def manifest_of(plan: Plan, receipts: Sequence[Receipt], table: pa.Table, index_sha256: str) -> Manifest:
    """The manifest of finished shards with the index `table`."""
    over, tally = _statistics(plan, receipts)
    splits = Counter(split for split in table.column("split").to_pylist() if split is not None)
    return Manifest(
        format=FORMAT,
        version=VERSION,
        archive=plan.archive,
        options=plan.options,
        plan_sha256=plan.sha256,
        codec=plan.codec,
        samples=table.num_rows,
        groups=tuple(_group_entry(group, receipts) for group in plan.groups),
        nomenclatures=plan.nomenclatures,
        splits=dict(sorted(splits.items())),
        statistics_over=over,
        statistics=tally.summary(),
        layout=plan.layout,
        shards=tuple(receipt.entry for receipt in receipts),
        index_sha256=index_sha256,
        checksum="",
    )


def _statistics(plan: Plan, receipts: Sequence[Receipt]) -> tuple[Any, Tally]:
    """Statistics over the training split; over all samples if there is none."""
    merged = {name: Tally(plan.sensor_groups()) for name in (TRAIN, REST)}
    for receipt in receipts:
        for name, tally in receipt.tallies.items():
            merged[name].merge(tally)
    return ("train", merged[TRAIN]) if merged[TRAIN].images else ("all", merged[REST])


def _group_entry(group: GroupSpec, receipts: Sequence[Receipt]) -> GroupEntry:
    shapes = [receipt.max_shapes[group.name] for receipt in receipts]
    largest = max(height for height, _ in shapes), max(width for _, width in shapes)
    return GroupEntry(**group.model_dump(), max_shape=largest)


def report_json(archive: str, report: BuildReport) -> dict[str, Any]:
    """The content of build_report.json."""
    return {
        "archive": archive,
        "found": report.found,
        "written": report.written,
        "left_out": len(report.faults),
        "excluded": len(report.excluded),
        "faults": [vars(fault) for fault in report.faults],
        "exclusions": [vars(fault) for fault in report.excluded],
    }


def _nothing_written(report: BuildReport) -> str:
    first = f"; the first was {report.faults[0].name}: {report.faults[0].reason}" if report.faults else ""
    return (
        f"No patch could be converted: {report.found} found, {len(report.faults)} left out, {len(report.excluded)} "
        f"excluded{first}. Expected at least one complete patch; compare the source folder with the archive's layout "
        f"({REPORT_NAME} lists every reason)."
    )
