"""Batches of a shard set behind a URL equal those of the local set, and failures end in clear errors."""

import itertools
import os
import threading

import pytest
import torch
from fakes.memory import SCENE_GROUPS, memory_shards
from processes import join, start
from servers import serving, total_bytes

from rspretrain.shardset.index import CorruptSampleError, open_shards
from rspretrain.streaming.loader import Loader, evaluation_batches
from rspretrain.streaming.settings import DataSettings, SourceSettings
from rspretrain.streaming.sources import open_sources
from rspretrain.world import World

pytestmark = pytest.mark.timeout(90)
STEPS = 20  # three epochs and a half


@pytest.fixture
def server(tmp_path):
    memory_shards(tmp_path / "set", samples=48)
    with serving(tmp_path / "set") as running:
        yield running


def settings(where, folder, **more):
    defaults = {"streams": 2, "window": 1, "prefetch": 1, "fetch_timeout_s": 1, "fetch_retries": 2}
    return DataSettings(shards=where, cache_dir=folder / "cache", **{**defaults, **more})


def loader(data, rank=0, world=1, shards=None):
    shards = shards or open_shards(data.shards, data.remote_options())
    this_world = World(rank, world, rank, torch.device("cpu"))
    return Loader(shards, data, list(shards.groups), global_batch=8, seed=5, world=this_world)


def seen(stream, steps=STEPS, first=0):
    """Rows, seeds and images of `steps` batches."""
    return [
        (batch.rows.tolist(), batch.seeds.tolist(), {name: image.clone() for name, image in batch.images.items()})
        for batch in itertools.islice(stream.batches(first), steps)
    ]


def same(one, other):
    return all(
        a[:2] == b[:2] and all(torch.equal(a[2][name], b[2][name]) for name in b[2])
        for a, b in zip(one, other, strict=True)
    )


def room_for(server, folder, shards, **more):
    """Settings with a cache that holds `shards` shards beside manifest and index."""
    manifest = open_shards(folder / "set").manifest
    kept = sum((folder / "set" / name).stat().st_size for name in ("manifest.json", "index.parquet"))
    size = kept + shards * max(entry.bytes for entry in manifest.shards)
    return settings(server.url, folder, cache_gb=size / 1e9, **more)


def test_batches_are_bit_equal_with_a_cache_smaller_than_the_set(tmp_path, server):
    local = seen(loader(settings(tmp_path / "set", tmp_path, window=1, streams=1)))
    data = room_for(server, tmp_path, 5, streams=1)
    most, stop = [0], threading.Event()

    def watch():
        while not stop.wait(0.002):
            most[0] = max(most[0], total_bytes(tmp_path / "cache"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert same(seen(loader(data)), local)
        assert same(seen(loader(data), 5, first=7), local[7:12])
    finally:
        stop.set()
        watcher.join()
    assert 0 < most[0] <= round(data.cache_gb * 1e9)
    assert sum(server.shards().values()) > 6  # shards were evicted and downloaded again


def save_batches(data, rank, world, folder):
    torch.save(seen(loader(data, rank, world)), folder / f"{rank}.pt")


@pytest.mark.parametrize("world", [2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(tmp_path, server, world):
    alone = seen(loader(settings(tmp_path / "set", tmp_path)))
    data = settings(server.url, tmp_path)
    ranks = [start(save_batches, data, rank, world, tmp_path) for rank in range(world)]
    assert join(ranks) == [0] * world
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for step, (rows, seeds, images) in enumerate(alone):
        mine = [parts[rank][step] for rank in range(world)]
        assert [row for part in mine for row in part[0]] == rows
        assert [seed for part in mine for seed in part[1]] == seeds
        for name, image in images.items():
            assert torch.equal(torch.cat([part[2][name] for part in mine]), image)
    assert set(server.shards().values()) == {1}  # all ranks together, three epochs


def test_a_failed_download_stops_the_run(tmp_path, server):
    server.faults["memory-000003.tar"] = ["500 forever"]
    with pytest.raises(
        RuntimeError, match=rf"{server.url}/memory-000003.tar could not be downloaded in 2 attempts over"
    ):
        seen(loader(settings(server.url, tmp_path, fetch_retries=1)))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("fetch", "gather"))]


def test_samples_of_a_failed_download_are_replaced(tmp_path, server):
    server.faults["memory-000003.tar"] = ["404 forever"]
    more = {"on_corrupt": "quarantine", "quarantine_limit": 0.5}
    stream = loader(settings(server.url, tmp_path, **more))
    far = seen(stream)
    assert set(stream.replacements) == set(range(24, 32))
    (tmp_path / "set" / "memory-000003.tar").unlink()
    assert same(far, seen(loader(settings(tmp_path / "set", tmp_path, **more))))  # as for a missing local shard


def test_a_mixture_of_a_url_and_a_folder(tmp_path, server):
    memory_shards(tmp_path / "near", samples=30, seed=1)
    weighted = [{"shards": tmp_path / "set", "weight": 2}, {"shards": tmp_path / "near", "weight": 1}]
    local = DataSettings(sources=weighted, streams=2, window=1)
    far = local.model_copy(update={"cache_dir": tmp_path / "cache", "prefetch": 1})
    far = far.model_copy(update={"sources": (SourceSettings(shards=server.url, weight=2), far.sources[1])})
    assert same(seen(mixed(far)), seen(mixed(local)))
    assert same(seen(mixed(far), 5, first=9), seen(mixed(local), 5, first=9))
    cache = tmp_path / "small"
    with pytest.raises(ValueError, match=r"data.cache_gb is .*, expected at least"):
        mixed(far.model_copy(update={"cache_dir": cache, "cache_gb": 5e-5}))


def mixed(data):
    sources = open_sources(data)
    world = World(0, 1, 0, torch.device("cpu"))
    return Loader(sources, data, list(sources.groups), global_batch=8, seed=5, world=world)


def damage_cache(folder):
    """Overwrite bytes of the last sample in every cached shard, in place."""
    for path in (folder / "cache").rglob("*.tar"):
        with path.open("r+b") as file:
            file.seek(-2048, os.SEEK_END)
            file.write(b"damage")


def test_damaged_cached_shards_are_downloaded_again(tmp_path, server, caplog):
    local = seen(loader(settings(tmp_path / "set", tmp_path)))
    data = settings(server.url, tmp_path)
    seen(loader(data), 6)
    damage_cache(tmp_path)
    stream = loader(data)
    assert same(seen(stream, 6), local[:6])
    damage_cache(tmp_path)  # a run verifies each checksum once; the next run finds this damage
    assert same(seen(loader(data)), local)
    assert set(server.shards().values()) == {3}
    assert caplog.text.count(f"after the download from {server.url}/memory-00000") == 12


def test_ranks_that_find_the_same_damage_download_it_once(tmp_path, server):
    alone = seen(loader(settings(tmp_path / "set", tmp_path)))
    data = settings(server.url, tmp_path)
    seen(loader(data), 6)
    damage_cache(tmp_path)
    ranks = [start(save_batches, data, rank, 2, tmp_path) for rank in range(2)]
    assert join(ranks) == [0] * 2
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for step, (rows, _, images) in enumerate(alone):
        assert parts[0][step][0] + parts[1][step][0] == rows
        for name, image in images.items():
            assert torch.equal(torch.cat([part[step][2][name] for part in parts]), image)
    assert set(server.shards().values()) == {2}


def test_repeated_damage_stops_the_run_or_is_replaced(tmp_path, server):
    data = settings(server.url, tmp_path, streams=1)
    stream = loader(data)
    next(iter(stream.sources.sets.values())).remote._renewed.update(range(6))  # as if downloaded again before
    seen(loader(data), 6)
    damage_cache(tmp_path)
    with pytest.raises(CorruptSampleError, match=r"memory-00000\d.tar .*was damaged before and downloaded again from"):
        seen(stream, 6)
    more = {"on_corrupt": "quarantine", "quarantine_limit": 0.5, "streams": 1}
    stream = loader(settings(server.url, tmp_path, **more))
    next(iter(stream.sources.sets.values())).remote._renewed.update(range(6))
    seen(stream, 6)
    assert sorted(stream.replacements) == [7, 15, 23, 31, 39, 47]


def test_a_cache_that_is_too_small_for_the_windows(tmp_path, server):
    with pytest.raises(
        ValueError, match=r"data.cache_gb is .*, expected at least 0.000\d+ GB: that much of the shard set"
    ):
        loader(room_for(server, tmp_path, 1))
    assert not server.shards()


def test_evaluation(tmp_path):
    local = memory_shards(tmp_path / "set", samples=30, groups=SCENE_GROUPS)
    with serving(tmp_path / "set") as server:
        data = settings(server.url, tmp_path)
        far = open_shards(data.shards, data.remote_options())
        rows = torch.randperm(30, generator=torch.Generator().manual_seed(0)).numpy()
        both = zip(evaluation_batches(far, ["rgb"], rows, 7), evaluation_batches(local, ["rgb"], rows, 7), strict=True)
        for one, other in both:
            assert one.rows.tolist() == other.rows.tolist()
            for image, (h, w), twin in zip(one.images["rgb"], one.sizes["rgb"], other.images["rgb"], strict=True):
                assert torch.equal(image[:, :h, :w], twin[:, :h, :w])
