import pytest
from fakes.memory import MemoryArchive

from rspretrain.shardset.building.plan import differences, list_entries, load_plan, plan_build, store_plan


def plan_of(samples=20, samples_per_shard=8, shuffle=True, codec="raw", **archive):
    made = MemoryArchive(samples=samples, **archive)
    listing = list_entries(made, shuffle=shuffle, samples_per_shard=samples_per_shard)
    return plan_build(made, listing, samples_per_shard=samples_per_shard, shuffle=shuffle, codec=codec)


def test_a_stored_plan_is_equal_when_loaded(tmp_path):
    (tmp_path / ".build").mkdir()
    store_plan(tmp_path, plan_of())
    assert load_plan(tmp_path) == plan_of()
    assert load_plan(tmp_path).sha256 == plan_of().sha256
    assert load_plan(tmp_path / "nowhere") is None
    (tmp_path / ".build/plan.json").write_text("{}")
    assert load_plan(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"samples": 21}, "entries: 20 / 21; entries_sha256"),
        ({"codec": "zstd"}, "codec: raw / zstd; layout"),
        ({"shuffle": False}, "shuffled: True / False; entries_sha256"),
    ],
)
def test_other_settings_are_another_plan(change, expected):
    assert plan_of(**change).sha256 != plan_of().sha256
    assert differences(plan_of(), plan_of(**change)) == expected


def test_shards_are_shuffled_by_key_and_keep_the_archive_order_inside():
    archive = MemoryArchive(samples=40)
    shuffled = list_entries(archive, shuffle=True, samples_per_shard=10).entries
    chunks = [[entry.source for entry in shuffled[i : i + 10]] for i in range(0, 40, 10)]
    assert all(chunk == sorted(chunk) for chunk in chunks)
    assert all(max(chunk) - min(chunk) > 15 for chunk in chunks)
    assert sorted(number for chunk in chunks for number in chunk) == list(range(40))
    plain = list_entries(archive, shuffle=False, samples_per_shard=10).entries
    assert [entry.source for entry in plain] == list(range(40))


def test_shards_need_at_least_one_sample():
    with pytest.raises(ValueError, match="samples_per_shard is 0, expected at least 1. The default is 1024."):
        plan_of(samples_per_shard=0)
