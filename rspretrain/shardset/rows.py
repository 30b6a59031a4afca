"""The rows of index.parquet, one per sample, and their footprints on Earth.

Columns: key, shard, record, offset, bytes, checksum (XXH3 of the record), offset_<member> and bytes_<member> (payloads,
from the start of the shard), split, labels_<nomenclature> (lists of names), crs, left, bottom, right, top, and the
attributes of the archive.

Bounds stay in the CRS of the archive. If there are bounds, lon and lat (of the middle) and geometry (the footprint as
GeoParquet) are derived from them in degrees (OGC:CRS84), rounded to 1e-9 degrees, so that one query reaches samples of
all zones. https://geoparquet.org/releases/v1.1.0
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rspretrain.archives.raster import to_degrees
from rspretrain.patch import Patch, PatchError
from rspretrain.shardset.record import Record

Row = dict[str, Any]
BOUNDS = ("left", "bottom", "right", "top")
DERIVED = ("lon", "lat", "geometry")
_WKB = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("ring", "<f8", (5, 2))])
_POLYGON = 3
_TYPES = {
    "key": pa.string(), "shard": pa.int32(), "record": pa.int32(), "offset": pa.int64(), "bytes": pa.int64(),
    "checksum": pa.uint64(), "split": pa.string(), "crs": pa.string(), **dict.fromkeys(BOUNDS, pa.float64()),
}  # fmt: skip


def index_row(patch: Patch, record: Record, *, shard: int, record_number: int, offset: int) -> Row:
    """One row of the index: position and checksum of a sample, and all columns for filters.

    PatchError if an attribute has the name of another column of the index.
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
        raise PatchError(
            f"attributes {clash} have names of other columns of the index, expected different names. Rename them."
        )
    return row | patch.attributes


def shard_table(rows: Sequence[Row]) -> pa.Table:
    """The rows of one shard as a table; a column of None alone has type null until the shards are merged."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows], _type(name, rows)) for name in names})


def finished_table(shards: Sequence[pa.Table]) -> pa.Table:
    """Merge the tables of all shards to the index: one type per column, and footprints."""
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


def with_footprints(table: pa.Table) -> pa.Table:
    """Add the columns lon, lat and geometry if the location of any row can be transformed to degrees."""
    corners = corners_of(table)
    known = np.isfinite(corners.reshape(-1, 10).sum(axis=1))
    if not known.any():
        return table
    middle = np.where(known[:, None], corners[:, 4], 0.0)
    polygons = np.zeros(len(corners), _WKB)
    polygons["order"], polygons["type"], polygons["rings"], polygons["points"] = 1, _POLYGON, 1, 5
    polygons["ring"] = corners[:, [0, 1, 2, 3, 0]]
    raw = polygons.tobytes()
    size = _WKB.itemsize
    geometry = [raw[i * size : (i + 1) * size] if known[i] else None for i in range(len(known))]
    table = table.append_column("lon", pa.array(middle[:, 0], mask=~known))
    table = table.append_column("lat", pa.array(middle[:, 1], mask=~known))
    table = table.append_column("geometry", pa.array(geometry, pa.binary()))
    ring = corners[known, :4].reshape(-1, 2)
    return table.replace_schema_metadata({"geo": _geo([*ring.min(0), *ring.max(0)])})


def corners_of(table: pa.Table) -> NDArray[np.float64]:
    """Corners [N 5 2] in degrees: lower left, lower right, upper right, upper left, middle; NaN if unknown.

    From the columns crs, left, bottom, right and top.
    """
    edges = [table.column(name).to_numpy().astype(np.float64) for name in ("left", "bottom", "right", "top")]
    left, bottom, right, top = edges
    xs = np.stack([left, right, right, left, (left + right) / 2], axis=1)
    ys = np.stack([bottom, bottom, top, top, (bottom + top) / 2], axis=1)
    corners = np.full((len(left), 5, 2), np.nan)
    zones = table.column("crs").combine_chunks().dictionary_encode()
    of_row = zones.indices.to_numpy(zero_copy_only=False)
    for number, crs in enumerate(zones.dictionary.to_pylist()):
        rows = np.flatnonzero((of_row == number) & np.isfinite(left))
        corners[rows] = np.round(to_degrees(crs, xs[rows], ys[rows]), 9)
    return corners


def _geo(box: list[float]) -> str:
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "orientation": "counterclockwise",
        "edges": "planar",
        "bbox": [float(edge) for edge in box],
    }
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})
