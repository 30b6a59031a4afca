import itertools
import logging

import numpy as np
import pytest
import torch
from fakes.memory import MemoryArchive, memory_shards

from rspretrain.rng import mix
from rspretrain.shardset.index import CorruptSampleError, open_shards
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.quarantine import Quarantine, replacement_report
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import Sources
from rspretrain.world import World


def damage(folder, rows):
    shards = open_shards(folder)
    for row in rows:
        path = folder / shards.manifest.shards[int(shards.numbers("shard")[row])].name
        data = bytearray(path.read_bytes())
        data[int(shards.numbers("offset_s2_20m")[row]) + 150] ^= 1
        path.write_bytes(data)
    return open_shards(folder)


def loader(shards, rank=0, world=1, **settings):
    this_world = World(rank, world, rank, torch.device("cpu"))
    data = DataSettings(shards=shards.path, **{"window": 2, "on_corrupt": "quarantine", **settings})
    return Loader(shards, data, list(shards.groups), global_batch=8, seed=5, world=this_world)


def batch_rows(stream, steps, first=0):
    return [batch.rows.tolist() for batch in itertools.islice(stream.batches(first), steps)]


def test_the_replacement_is_the_same_on_every_rank_for_any_world_size_and_after_a_restart(tmp_path, caplog):
    memory_shards(tmp_path, samples=40)
    plan = batch_rows(loader(open_shards(tmp_path)), 10)
    shards = damage(tmp_path, [3, 17])
    alone = loader(shards)
    with caplog.at_level(logging.WARNING):
        seen = batch_rows(alone, 10)
    assert "'patch-" in caplog.text
    assert "is damaged; 'patch-" in caplog.text
    replacements = alone.replacements
    assert sorted(replacements) == [3, 17]
    assert seen == [[replacements.get(row, row) for row in batch] for batch in plan]
    for world in (2, 4):
        parts = [batch_rows(loader(shards, rank, world), 10) for rank in range(world)]
        assert [list(itertools.chain(*batch)) for batch in zip(*parts, strict=True)] == seen
    assert batch_rows(loader(shards), 3, first=7) == seen[7:]
    assert alone.num_replaced == 4  # two samples, two epochs


def test_pixels_are_those_of_the_replacement(tmp_path):
    memory_shards(tmp_path, samples=40)
    shards = damage(tmp_path, range(0, 40, 5))
    for batch in itertools.islice(loader(shards).batches(), 5):
        for index, key in enumerate(shards.keys(batch.rows)):
            for name, group in shards.groups.items():
                expected = torch.from_numpy(MemoryArchive().pixels(int(key[-5:]), group))
                assert torch.equal(batch.images[name][index], expected)


@pytest.mark.parametrize("fault", ["missing", "cut"])
def test_missing_and_truncated_shards(tmp_path, fault):
    memory_shards(tmp_path, samples=40)
    shard = tmp_path / "memory-000002.tar"
    if fault == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-15_000])
    stream = loader(open_shards(tmp_path), window=1)
    rows = batch_rows(stream, 5)
    lost = set(stream.replacements)
    assert lost <= set(range(16, 24))
    assert len(lost) == (8 if fault == "missing" else 2)
    assert not lost & set(itertools.chain(*rows))


def test_too_many_damaged_samples_stop_the_run(tmp_path):
    memory_shards(tmp_path, samples=40)
    shards = damage(tmp_path, range(20))
    with pytest.raises(
        RuntimeError,
        match=r"in addition to 10 of 40 samples; expected .* data.quarantine_limit=0.01. Run",
    ):
        batch_rows(loader(shards), 5)
    assert len(batch_rows(loader(shards, quarantine_limit=0.5), 5)) == 5


def test_the_default_is_to_stop(tmp_path):
    memory_shards(tmp_path, samples=40)
    with pytest.raises(CorruptSampleError):
        batch_rows(loader(damage(tmp_path, [3]), on_corrupt="stop"), 5)
    with pytest.raises(ValueError, match=r"only checksums find damaged samples. Set data.verify=true"):
        DataSettings(shards=tmp_path, on_corrupt="quarantine", verify=False)


def test_the_replacement_is_a_function_of_sample_and_pool(tmp_path):
    shards = memory_shards(tmp_path, samples=40)
    pool = np.arange(5, 30)
    quarantine = Quarantine(shards, pool, 0.5)
    rows = quarantine.replace(np.array([7, 8, 9]), lambda row: row != 8)
    attempts = [int(pool[mix(8, attempt) % 25]) for attempt in range(9)]
    assert rows.tolist() == [7, next(row for row in attempts if row != 8), 9]
    (line,) = replacement_report(Sources({"set": shards}), quarantine.replacements)
    assert line == {
        "key": shards.keys(np.array([8]))[0], "shard": "memory-000001.tar", "replaced_by": shards.keys(rows[1:2])[0],
    }  # fmt: skip
