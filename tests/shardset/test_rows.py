import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes.memory import MemoryArchive, memory_shards

from rspretrain.patch import Patch, PatchError
from rspretrain.shardset.record import encode
from rspretrain.shardset.rows import finished_table, index_row, shard_table, with_footprints

LOCATIONS = {
    "crs": ["EPSG:32633", None, "EPSG:4326", "no such thing"],
    "left": [499_400.0, None, 10.0, 1.0],
    "bottom": [5_399_400.0, None, -5.0, 1.0],
    "right": [500_600.0, None, 11.0, 2.0],
    "top": [5_400_600.0, None, -4.0, 2.0],
}


def row(number, **attributes):
    archive = MemoryArchive()
    patch = archive.read(archive.entries()[0][number])
    patch = Patch(**{**vars(patch), "attributes": attributes})
    record = encode(patch, archive.groups, archive.nomenclatures, archive.metadata_bytes)
    return index_row(patch, record, shard=0, record_number=number, offset=512)


def test_one_type_per_column_over_all_shards():
    shards = [
        [row(0, cloud=None, date=None, tile="T33")],
        [row(1, cloud=1, date=None, tile=None), row(2, cloud=2, date=None, tile="T34")],
        [row(3, cloud=0.5, date=None, tile="T35", extra=7)],
    ]
    table = finished_table([shard_table(rows) for rows in shards])
    types = {name: table.schema.field(name).type for name in ("cloud", "date", "tile", "extra")}
    assert types == {"cloud": pa.float64(), "date": pa.string(), "tile": pa.string(), "extra": pa.int64()}
    assert table.column("cloud").to_pylist() == [None, 1.0, 2.0, 0.5]
    assert table.column("extra").to_pylist() == [None, None, None, 7]
    assert table.column("offset_json")[0].as_py() > 512


@pytest.mark.parametrize("name", ["split", "left", "offset_json", "geometry"])
def test_attributes_with_the_names_of_the_index(name):
    with pytest.raises(PatchError, match=rf"attributes \['{name}'\] have names of other columns of the index"):
        row(0, **{name: 1})


def test_centres_and_polygons_in_degrees():
    table = with_footprints(pa.table(LOCATIONS))
    np.testing.assert_allclose(table.column("lon")[0].as_py(), 15.0, atol=1e-8)
    np.testing.assert_allclose(table.column("lat")[0].as_py(), 48.753013, atol=1e-5)
    assert table.column("lon").to_pylist()[1::2] == [None, None]
    order, kind, rings, points, *numbers = struct.unpack("<BIII10d", table.column("geometry")[2].as_py())
    assert (order, kind, rings, points) == (1, 3, 1, 5)
    assert numbers == [10, -5, 11, -5, 11, -4, 10, -4, 10, -5]  # counterclockwise
    assert table.column("geometry")[1].as_py() is None


def test_tables_without_locations_are_unchanged():
    table = pa.table(LOCATIONS).slice(3)
    assert with_footprints(table) is table


def test_the_index_is_geoparquet(tmp_path):
    memory_shards(tmp_path, samples=20)
    geo = json.loads(pq.read_schema(tmp_path / "index.parquet").metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert (column["encoding"], column["geometry_types"]) == ("WKB", ["Polygon"])
    west, south, east, north = column["bbox"]
    assert west < east
    assert south < north
