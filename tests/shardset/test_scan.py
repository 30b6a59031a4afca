import numpy as np
import pytest
from fakes.memory import SCENE_GROUPS, memory_shards

from rspretrain.shardset.index import open_shards
from rspretrain.shardset.scan import Contents, scan_shard


def scan(folder, number, data=None):
    shards = open_shards(folder)
    contents = Contents(list(shards.groups.values()), shards.nomenclatures, shards.manifest.codec)
    name = shards.manifest.shards[number].name
    return scan_shard(memoryview(data or (folder / name).read_bytes()), name, number, contents)


@pytest.mark.parametrize("archive", [{}, {"groups": SCENE_GROUPS}])
def test_rows_of_the_index_follow_from_the_bytes(tmp_path, archive):
    shards = memory_shards(tmp_path, samples=20, **archive)
    rows = [row for number in range(3) for row in scan(tmp_path, number).rows]
    for name in ("key", "shard", "record", "offset", "bytes", "checksum", "split", "labels_all", "left", "country"):
        assert [row[name] for row in rows] == shards.column(name).to_pylist()


def test_parsing_continues_after_damage(tmp_path):
    memory_shards(tmp_path, samples=16)
    data = bytearray((tmp_path / "memory-000001.tar").read_bytes())
    data[3] ^= 1  # in the name of the first member
    found = scan(tmp_path, 1, bytes(data))
    assert len(found.rows) == 7
    assert any("has a damaged tar header at byte 0" in fault.reason for fault in found.faults)


def test_bytes_that_are_not_a_tar(tmp_path):
    memory_shards(tmp_path, samples=16)
    noise = np.random.default_rng(0).bytes(5000)
    found = scan(tmp_path, 1, noise)
    assert not found.rows
    assert found.faults[-1].reason == "has no end-of-tar marker"
