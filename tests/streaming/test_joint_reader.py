import itertools

import numpy as np
import pytest
import torch
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, MemoryArchive, memory_shards

from rspretrain.sensors import Group
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import open_sources
from rspretrain.world import World

LARGER = Group("s1_10m", "s1", ("VV", "VH"), "float32", (20, 16), 10.0, "db")


def loader(folder, groups, **settings):
    data = DataSettings(
        sources=[{"shards": folder / "a", "weight": 0.6}, {"shards": folder / "b", "weight": 0.4}], window=2, **settings
    )
    return Loader(
        open_sources(data), data, groups, global_batch=8, seed=3, world=World(0, 1, 0, torch.device("cpu"))
    )  # fmt: skip


@pytest.mark.parametrize("other", [PAIR_GROUPS, (LARGER, PAIR_GROUPS[1])])
def test_every_sample_comes_from_its_own_set(tmp_path, other):
    archives = {"a": MemoryArchive(samples=20), "b": MemoryArchive(samples=20, seed=9, groups=other)}
    for name, archive in archives.items():
        memory_shards(tmp_path / name, samples=20, seed=archive.seed, groups=archive.groups)
    stream = loader(tmp_path, ["s1_10m", "s2_10m"])
    for batch in itertools.islice(stream.batches(), 6):
        for place, key in enumerate(stream.sources.keys(batch.rows)):
            name, _, patch = key.partition(":")
            for group in archives[name].groups[:2]:
                image = torch.from_numpy(archives[name].pixels(int(patch[-5:]), group))
                height, width = image.shape[1:]
                assert torch.equal(batch.images[group.name][place, :, :height, :width], image)
                if group.name in batch.sizes:
                    assert batch.sizes[group.name][place].tolist() == [height, width]
    assert ("s1_10m" in batch.sizes) == (other is not PAIR_GROUPS)


def test_images_of_any_size(tmp_path):
    for name in "ab":
        memory_shards(tmp_path / name, samples=20, groups=SCENE_GROUPS, seed=ord(name))
    batch = next(loader(tmp_path, ["rgb"]).batches())
    assert batch.sizes["rgb"].min() > 0


def test_damage_is_replaced_within_its_own_set(tmp_path):
    for name in "ab":
        memory_shards(tmp_path / name, samples=20)
    shard = tmp_path / "b" / "memory-000001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    stream = loader(tmp_path, ["s2_60m"], on_corrupt="quarantine")
    for _ in itertools.islice(stream.batches(), 10):
        pass
    ((row, stand_in),) = stream.stand_ins.items()
    assert row == 20 + 8
    assert stand_in >= 20
    assert stream.num_replaced >= 1
    (told,) = stream.sources.keys(np.array([row]))
    assert told.startswith("b:patch-")
