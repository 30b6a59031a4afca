from fakes.memory import PAIR_GROUPS, MemoryArchive

from rspretrain.shardset.building.build import Part, build_shards
from rspretrain.shardset.building.receipt import TRAIN, is_finished, read_receipt, receipt_path


def test_a_receipt_describes_its_shard(tmp_path):
    archive = MemoryArchive(samples=20, broken={2: "nan", 3: "cloudy"})
    build_shards(archive, tmp_path, samples_per_shard=20, part=Part(1, 2))
    name = "memory-000000.tar"
    receipt = read_receipt(tmp_path, name, PAIR_GROUPS)
    assert (receipt.entry.samples, receipt.rows.num_rows) == (18, 18)
    assert [fault.name for fault in receipt.faults + receipt.excluded] == ["Patch2", "Patch3"]
    assert receipt.tallies[TRAIN].images == 14
    assert receipt.max_shapes["s2_20m"] == (6, 6)
    assert is_finished(tmp_path, name)


def test_a_receipt_without_its_shard_is_ignored(tmp_path):
    build_shards(MemoryArchive(samples=20), tmp_path, samples_per_shard=20, part=Part(1, 2))
    name = "memory-000000.tar"
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-1])
    assert not is_finished(tmp_path, name)
    assert read_receipt(tmp_path, name, PAIR_GROUPS) is None
    (tmp_path / name).write_bytes(data)
    assert is_finished(tmp_path, name)
    receipt_path(tmp_path, name).write_bytes(b"PAR1 torn")
    assert not is_finished(tmp_path, name)
    assert read_receipt(tmp_path, name, PAIR_GROUPS) is None
    assert read_receipt(tmp_path, "memory-000001.tar", PAIR_GROUPS) is None
