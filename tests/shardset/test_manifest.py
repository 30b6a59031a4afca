from fakes.memory import PAIR_GROUPS, memory_shards

from rspretrain.shardset.manifest import dump_manifest, load_manifest


def test_a_written_manifest_is_equal_when_read(tmp_path):
    shards = memory_shards(tmp_path, samples=10)
    manifest, data = load_manifest(tmp_path)
    assert dump_manifest(manifest) == data
    assert tuple(manifest.group(group.name) for group in PAIR_GROUPS) == PAIR_GROUPS
    assert manifest.nomenclature("all").multi
    assert manifest.splits == {"test": 2, "train": 8}
    assert sum(entry.samples for entry in manifest.shards) == len(shards) == 10


def test_the_manifest_is_deterministic(tmp_path):
    for name in ("a", "b"):
        memory_shards(tmp_path / name, samples=10)
    assert load_manifest(tmp_path / "a") == load_manifest(tmp_path / "b")
