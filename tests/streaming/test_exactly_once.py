"""Keys and augmentation seeds come exactly once: real loaders on real shards, any world size, any restarts."""

import itertools

import pytest
import torch
from fakes.memory import memory_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from torture import times

from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import open_sources
from rspretrain.world import World


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    memory_shards(folder / "a", samples=61, samples_per_shard=6)
    memory_shards(folder / "b", samples=37, samples_per_shard=4, seed=1)
    return folder


def ledger(data, sources, global_batch, world, accumulation, first, last):
    """Keys and seeds of the global batches of steps first..last-1, assembled from the batches of all ranks.

    Accumulation acts as a larger world (see sampler.rank_slice).
    """
    parts = []
    for rank in range(world * accumulation):
        this_world = World(rank, world * accumulation, rank, torch.device("cpu"))
        stream = Loader(sources, data, ["s2_60m"], global_batch=global_batch, seed=11, world=this_world)
        batches = stream.batches(first)
        parts.append(
            [
                list(zip(sources.keys(batch.rows), batch.seeds.tolist(), strict=True))
                for batch in itertools.islice(batches, last - first)
            ]
        )
        batches.close()
    return [list(itertools.chain(*step)) for step in zip(*parts, strict=True)]


@settings(max_examples=times(200, 2000), deadline=None)
@given(
    mixed=st.booleans(),
    streams=st.integers(1, 4),
    window=st.integers(1, 4),
    worlds=st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=3),
    accumulation=st.sampled_from([1, 2]),
    steps=st.integers(1, 8),
    stops=st.lists(st.integers(0, 8), min_size=2, max_size=2),
)
def test_restarts_and_world_sizes_do_not_change_the_ledger(
    sets, mixed, streams, window, worlds, accumulation, steps, stops
):
    options = {"streams": streams, "window": window, "threads": 1, "prefetch": 1}
    weighted = [{"shards": sets / "a", "weight": 2}, {"shards": sets / "b", "weight": 1}]
    data = DataSettings(**({"sources": weighted} if mixed else {"shards": sets / "a"}), **options)
    sources = open_sources(data)
    batch = 48 if 48 * steps < 400 else 24
    whole = ledger(data, sources, batch, 1, 1, 0, steps)
    cuts = [0, *sorted(min(stop, steps) for stop in stops[: len(worlds) - 1]), steps]
    resumed = []
    for world, (first, last) in zip(worlds, itertools.pairwise(cuts), strict=True):
        resumed += ledger(data, sources, batch, world, accumulation, first, last)
    assert resumed == whole
    if not mixed:
        assert all(len({key for key, _ in step}) == batch for step in whole)
    seeds = [seed for step in whole for _, seed in step]
    assert len(set(seeds)) == len(seeds)
