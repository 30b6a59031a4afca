import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, MemoryArchive, memory_shards

from rspretrain.shardset.building.assemble import index_bytes


def pixels(samples, group, split):
    archive = MemoryArchive(samples=samples)
    numbers = [i for i in range(samples) if (i % 5 == 0) == (split == "test")]
    return np.stack([archive.pixels(number, group) for number in numbers])


def test_statistics_are_those_of_the_training_split(tmp_path):
    manifest = memory_shards(tmp_path, samples=40).manifest
    assert manifest.statistics_over == "train"
    for group in PAIR_GROUPS:
        train = pixels(40, group, "train").astype(np.float64)
        for band, found in zip(group.bands, manifest.statistics[group.name].values(), strict=True):
            values = train[:, group.bands.index(band)]
            assert found.count == values.size
            assert (found.min, found.max) == (values.min(), values.max())
            assert found.mean == pytest.approx(values.mean(), rel=1e-14)
            assert found.std == pytest.approx(values.std(), rel=1e-14)


def test_the_largest_shape_is_known(tmp_path):
    (group,) = memory_shards(tmp_path, samples=9, groups=SCENE_GROUPS).manifest.groups
    assert group.shape is None
    assert group.max_shape == (10, 9)


def test_equal_tables_are_equal_bytes(tmp_path):
    memory_shards(tmp_path, samples=20)
    table = pq.read_table(tmp_path / "index.parquet")
    assert index_bytes(table) == index_bytes(table.take(list(range(20)))) == (tmp_path / "index.parquet").read_bytes()
