"""Where samples lie on Earth, for queries over many zones: lon, lat of the middle, and the footprint as GeoParquet.

Bounds stay in the archive's own CRS (columns crs, left, bottom, right, top); these columns are derived from them in
degrees (OGC:CRS84), rounded to 1e-9 degrees, so that one question reaches samples of all zones.
https://geoparquet.org/releases/v1.1.0
"""

import json

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rspretrain.archives.degrees import to_degrees

DERIVED = ("lon", "lat", "geometry")
_WKB = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("ring", "<f8", (5, 2))])
_POLYGON = 3


def with_footprints(table: pa.Table) -> pa.Table:
    """`table` with columns lon, lat and geometry where any row has a place that is known on Earth; else as it is."""
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
    """[N 5 2] degrees: lower left, lower right, upper right, upper left, middle; NaN where unknown.

    Of columns crs, left, bottom, right and top.
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
