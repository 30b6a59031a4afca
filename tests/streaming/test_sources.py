import numpy as np
import pytest
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, memory_shards

from rspretrain.sensors import Group
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import Sources, open_sources


def two(tmp_path, **more):
    one = memory_shards(tmp_path / "one", samples=6)
    other = memory_shards(tmp_path / "other", samples=10, seed=1, **more)
    return Sources({"one": one, "other": other})


def test_rows_are_numbered_on(tmp_path):
    sources = two(tmp_path)
    assert (len(sources), sources.name, sources.first_rows) == (16, "one + other", [0, 6, 16])
    rows = np.array([15, 0, 6])
    assert [part.tolist() for part in sources.locate(rows)] == [[1, 0, 1], [9, 0, 0]]
    first, second = sources.sets.values()
    assert sources.keys(rows) == [f"other:{second.keys()[9]}", f"one:{first.keys()[0]}", f"other:{second.keys()[0]}"]
    assert sources.shard_names(rows)[0] == "memory-000001.tar"


def test_one_set_is_itself(tmp_path):
    shards = memory_shards(tmp_path, samples=6)
    sources = Sources({"a": shards})
    assert sources.sha256 == shards.manifest_sha256
    assert sources.keys(np.array([3])) == shards.keys(np.array([3]))
    assert sources.groups == shards.groups


def test_only_common_groups_and_no_fixed_shape_where_they_differ(tmp_path):
    larger = Group("s1_10m", "s1", ("VV", "VH"), "float32", (20, 16), 10.0, "db")
    sources = two(tmp_path, groups=(larger, PAIR_GROUPS[1]))
    assert list(sources.groups) == ["s1_10m", "s2_10m"]
    assert sources.groups["s1_10m"].shape is None
    assert sources.canvas["s1_10m"] == (20, 16)
    assert sources.groups["s2_10m"] == PAIR_GROUPS[1]


def test_sets_that_do_not_fit_together(tmp_path):
    with pytest.raises(ValueError, match=r"'other' has the groups \['rgb'\], none of which all of \['one', 'other'\]"):
        two(tmp_path, groups=SCENE_GROUPS)


def test_groups_that_mean_something_else(tmp_path):
    integers = Group("s1_10m", "s1", ("VV", "VH"), "uint16", (12, 12), 10.0, "db")
    with pytest.raises(ValueError, match="'s1_10m' has dtype 'float32' in 'one' and 'uint16' in 'other'; a batch"):
        two(tmp_path, groups=(integers,))


def test_statistics_are_those_of_all_pixels_together(tmp_path):
    sources = two(tmp_path)
    pixels = [
        np.stack([shards[row].images["s2_10m"] for row in range(len(shards))]) for shards in sources.sets.values()
    ]
    together = np.concatenate(pixels).astype(np.float64)
    used = [shards.manifest.statistics_over for shards in sources.sets.values()]
    assert used == ["train", "train"]
    found = sources.statistics("s2_10m")
    for band, (mean, std) in found.items():
        here = together[:, PAIR_GROUPS[1].bands.index(band)]
        assert mean == pytest.approx(here.mean(), rel=0.02)  # statistics are of the training split, a fifth less
        assert std == pytest.approx(here.std(), rel=0.02)
    assert set(found) == set(PAIR_GROUPS[1].bands)


def test_opened_as_settings_name_them(tmp_path):
    two(tmp_path)
    settings = DataSettings(sources=[{"shards": tmp_path / "one"}, {"shards": tmp_path / "other", "name": "b"}])
    assert list(open_sources(settings).sets) == ["one", "b"]
