import itertools

import numpy as np
import pytest
import torch
from fakes.memory import SCENE_GROUPS, MemoryArchive, memory_shards

from rspretrain.rng import sample_seeds
from rspretrain.streaming.loader import Loader, evaluation_batches
from rspretrain.streaming.settings import DataSettings
from rspretrain.world import World


def loader(shards, rank=0, world=1, global_batch=8, **settings):
    this_world = World(rank, world, rank, torch.device("cpu"))
    data = DataSettings(shards=shards.path, **{"streams": 2, "window": 2, **settings})
    return Loader(shards, data, list(shards.groups), global_batch=global_batch, seed=5, world=this_world)


def batch_keys(shards, batches, count):
    return [shards.keys(batch.rows) for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("world", [2, 4])
def test_global_batches_do_not_depend_on_the_world_size(tmp_path, world):
    shards = memory_shards(tmp_path, samples=40)
    alone = batch_keys(shards, loader(shards).batches(), 9)
    parts = [batch_keys(shards, loader(shards, rank, world).batches(), 9) for rank in range(world)]
    assert [list(itertools.chain(*batch)) for batch in zip(*parts, strict=True)] == alone
    assert alone[6] == loader(shards).global_batch(6)[0]


def test_resume_by_step(tmp_path):
    shards = memory_shards(tmp_path, samples=40)
    whole = list(batch_keys(shards, loader(shards).batches(), 12))
    assert batch_keys(shards, loader(shards).batches(first_step=7), 5) == whole[7:]


def test_exactly_once_per_epoch_and_dropped_samples_are_counted(tmp_path):
    shards = memory_shards(tmp_path, samples=43)
    stream = loader(shards)
    assert (stream.steps_per_epoch, stream.dropped) == (5, 3)
    for epoch in np.split(np.array(batch_keys(shards, stream.batches(), 15)), 3):
        assert len(set(epoch.ravel())) == 40


def test_pixels_and_seeds_are_those_of_the_sample(tmp_path):
    shards = memory_shards(tmp_path, samples=24)
    stream = loader(shards)
    for step, batch in enumerate(itertools.islice(stream.batches(), 6)):
        indices = stream._plan.indices(step)
        assert batch.seeds.tolist() == sample_seeds(5, int(indices.epoch[0]), indices.position).tolist()
        for index, key in enumerate(shards.keys(batch.rows)):
            for name, group in shards.groups.items():
                expected = torch.from_numpy(MemoryArchive().pixels(int(key[-5:]), group))
                assert torch.equal(batch.images[name][index], expected)


def test_split_selects_rows(tmp_path):
    shards = memory_shards(tmp_path, samples=40)
    stream = loader(shards, split="train", global_batch=16)
    seen = list(itertools.chain(*batch_keys(shards, stream.batches(), 2)))
    assert sorted(seen) == sorted(f"patch-{i:05d}" for i in range(40) if i % 5)


def test_evaluation_keeps_the_short_batch(tmp_path):
    shards = memory_shards(tmp_path, samples=11, groups=SCENE_GROUPS)
    batches = list(evaluation_batches(shards, ["rgb"], np.arange(11), 4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert np.concatenate([batch.rows for batch in batches]).tolist() == list(range(11))
    assert len(batches[2].sizes["rgb"]) == len(batches[2].images["rgb"]) == 3


def test_batches_larger_than_the_set(tmp_path):
    with pytest.raises(
        ValueError,
        match="has 4 samples in split None with filter None, expected at least one global batch of 8. Lower train",
    ):
        loader(memory_shards(tmp_path, samples=4, samples_per_shard=2))


def test_unknown_split(tmp_path):
    with pytest.raises(ValueError, match=r"has no split 'val'; its splits are \{'test': 2, 'train': 8\}. Name one"):
        loader(memory_shards(tmp_path, samples=10), split="val")


def test_threads_end_when_the_consumer_stops(tmp_path):
    import threading

    shards = memory_shards(tmp_path, samples=40)
    batches = loader(shards).batches()
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gather")]
