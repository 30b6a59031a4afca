"""The rows of index.parquet: one for every sample, made from its patch and its record, or from a shard's bytes again.

Columns: key, shard, record, offset, bytes, checksum (XXH3 of the record), offset_<member> and bytes_<member> (payloads,
from the start of the shard), split, labels_<nomenclature> (lists of names), crs, left, bottom, right, top, the
archive's own attributes, and, where there are places, those of `footprints`.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from rspretrain.patch import Patch, PatchError
from rspretrain.shardset.footprints import DERIVED, with_footprints
from rspretrain.shardset.record import Record

Row = dict[str, Any]
BOUNDS = ("left", "bottom", "right", "top")
_TYPES = {
    "key": pa.string(), "shard": pa.int32(), "record": pa.int32(), "offset": pa.int64(), "bytes": pa.int64(),
    "checksum": pa.uint64(), "split": pa.string(), "crs": pa.string(), **dict.fromkeys(BOUNDS, pa.float64()),
}  # fmt: skip


def index_row(patch: Patch, record: Record, *, shard: int, record_number: int, offset: int) -> Row:
    """One row of the index: where a sample lies, its checksum, and everything that may select it.

    PatchError where an attribute has the name of one of the index's own columns.
    """
    row: Row = {"key": patch.key, "shard": shard, "record": record_number, "offset": offset}
    row |= {"bytes": len(record.data), "checksum": record.checksum}
    for name, span in record.members.items():
        row |= {f"offset_{name}": offset + span.offset, f"bytes_{name}": span.bytes}
    row["split"] = patch.split
    row |= {f"labels_{name}": list(labels) for name, labels in patch.labels.items()}
    row["crs"] = patch.crs
    row |= dict(zip(BOUNDS, patch.bounds or (None,) * 4, strict=True))
    if clash := sorted({*row, *DERIVED} & patch.attributes.keys()):
        raise PatchError(f"attributes {clash} have names that the index itself needs, expected others. Rename them.")
    return row | patch.attributes


def shard_table(rows: Sequence[Row]) -> pa.Table:
    """The rows of one shard; columns of nothing but None keep the type null until the shards come together."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows], _type(name, rows)) for name in names})


def finished_table(shards: Sequence[pa.Table]) -> pa.Table:
    """The whole index from those of its shards: one type a column, whatever single shards hold, and footprints."""
    table = pa.concat_tables(shards, promote_options="permissive").combine_chunks()
    for number, field in enumerate(table.schema):
        if pa.types.is_null(field.type):
            table = table.set_column(number, field.name, table.column(number).cast(pa.string()))
    return with_footprints(table)


def _type(name: str, rows: Sequence[Row]) -> pa.DataType:
    if name in _TYPES:
        return _TYPES[name]
    if name.startswith(("offset_", "bytes_")):
        return pa.int64()
    if name.startswith("labels_"):
        return pa.list_(pa.string())
    kinds = {type(row[name]) for row in rows if row.get(name) is not None}
    if not kinds:
        return pa.null()
    if kinds <= {int, float}:
        return pa.int64() if kinds == {int} else pa.float64()
    return pa.string()
