import pyarrow as pa
import pytest
from fakes.memory import MemoryArchive

from rspretrain.patch import Patch, PatchError
from rspretrain.shardset.record import encode
from rspretrain.shardset.rows import finished_table, index_row, shard_table


def row(number, **attributes):
    archive = MemoryArchive()
    patch = archive.read(archive.entries()[0][number])
    patch = Patch(**{**vars(patch), "attributes": attributes})
    record = encode(patch, archive.groups, archive.nomenclatures, archive.metadata_bytes)
    return index_row(patch, record, shard=0, record_number=number, offset=512)


def test_one_type_a_column_whatever_single_shards_hold():
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
    with pytest.raises(PatchError, match=rf"attributes \['{name}'\] have names that the index itself needs"):
        row(0, **{name: 1})
