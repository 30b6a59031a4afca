import numpy as np
import pytest
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, memory_shards

from rspretrain.sensors import Group
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import Sources, open_sources


def two_sources(tmp_path, **more):
    one = memory_shards(tmp_path / "one", samples=6)
    other = memory_shards(tmp_path / "other", samples=10, seed=1, **more)
    return Sources({"one": one, "other": other})


def test_row_numbers_continue_from_set_to_set(tmp_path):
    sources = two_sources(tmp_path)
    assert (len(sources), sources.name, sources.first_rows) == (16, "one + other", [0, 6, 16])
    rows = np.array([15, 0, 6])
    assert [part.tolist() for part in sources.locate(rows)] == [[1, 0, 1], [9, 0, 0]]
    first, second = sources.sets.values()
    assert sources.keys(rows) == [f"other:{second.keys()[9]}", f"one:{first.keys()[0]}", f"other:{second.keys()[0]}"]
    assert sources.shard_names(rows)[0] == "memory-000001.tar"


def test_a_single_set_keeps_its_digest_and_keys(tmp_path):
    shards = memory_shards(tmp_path, samples=6)
    sources = Sources({"a": shards})
    assert sources.sha256 == shards.manifest_sha256
    assert sources.keys(np.array([3])) == shards.keys(np.array([3]))
    assert sources.groups == shards.groups


def test_only_common_groups_and_no_fixed_shape_if_shapes_differ(tmp_path):
    larger = Group("s1_10m", "s1", ("VV", "VH"), "float32", (20, 16), 10.0, "db")
    sources = two_sources(tmp_path, groups=(larger, PAIR_GROUPS[1]))
    assert list(sources.groups) == ["s1_10m", "s2_10m"]
    assert sources.groups["s1_10m"].shape is None
    assert sources.canvas["s1_10m"] == (20, 16)
    assert sources.groups["s2_10m"] == PAIR_GROUPS[1]


def test_sets_without_a_common_group(tmp_path):
    with pytest.raises(ValueError, match=r"has the groups \['rgb'\], expected one that all of \['one', 'other'\]"):
        two_sources(tmp_path, groups=SCENE_GROUPS)


def test_groups_with_different_definitions(tmp_path):
    integers = Group("s1_10m", "s1", ("VV", "VH"), "uint16", (12, 12), 10.0, "db")
    with pytest.raises(ValueError, match="'s1_10m' has dtype 'float32' in 'one' and 'uint16' in 'other', expected"):
        two_sources(tmp_path, groups=(integers,))


def test_statistics_are_pooled_over_all_sets(tmp_path):
    sources = two_sources(tmp_path)
    pixels = [
        np.stack([shards[row].images["s2_10m"] for row in range(len(shards))]) for shards in sources.sets.values()
    ]
    together = np.concatenate(pixels).astype(np.float64)
    used = [shards.manifest.statistics_over for shards in sources.sets.values()]
    assert used == ["train", "train"]
    found = sources.statistics("s2_10m")
    for band, (mean, std) in found.items():
        values = together[:, PAIR_GROUPS[1].bands.index(band)]
        assert mean == pytest.approx(values.mean(), rel=0.02)  # manifests use the training split, 80 %
        assert std == pytest.approx(values.std(), rel=0.02)
    assert set(found) == set(PAIR_GROUPS[1].bands)


def test_open_sources_uses_the_names_in_the_settings(tmp_path):
    two_sources(tmp_path)
    settings = DataSettings(sources=[{"shards": tmp_path / "one"}, {"shards": tmp_path / "other", "name": "b"}])
    assert list(open_sources(settings).sets) == ["one", "b"]
