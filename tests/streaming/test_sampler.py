import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import check_order
from torture import times

from rspretrain.rng import mix, permutation
from rspretrain.streaming.sampler import EpochSampler, positions_by_stream, rank_slice


@settings(max_examples=times(200, 5000), deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=24),
    seed=st.integers(0, 2**63),
    streams=st.integers(1, 8),
    window=st.integers(1, 6),
    world=st.integers(1, 8),
    accumulation=st.integers(1, 3),
    per_rank=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_every_sample_once_for_any_world_size(sizes, seed, streams, window, world, accumulation, per_rank, epoch):
    streams = min(streams, sum(size > 0 for size in sizes))
    if streams:
        sampler = EpochSampler(np.array(sizes), seed=seed, streams=streams, window=window)
        check_order(sampler, epoch, world, accumulation, world * accumulation * per_rank)


def test_epochs_and_seeds_differ_but_repeat():
    samplers = [EpochSampler(np.full(6, 10), seed=seed, streams=2, window=2) for seed in (0, 0, 1)]
    epochs = [tuple(sampler.samples(epoch, np.arange(60))) for sampler in samplers for epoch in (0, 1)]
    assert epochs[0] == epochs[2]
    assert epochs[1] == epochs[3]
    assert len({*epochs}) == 4


def test_frozen_forever():
    """The order of version 1, pinned: a change of library or of code that moves it breaks every resumed run."""
    sampler = EpochSampler(np.array([3, 4, 2]), seed=7, streams=2, window=2)
    assert sampler.samples(1, np.arange(9)).tolist() == [8, 6, 3, 1, 4, 0, 7, 2, 5]
    assert mix(1, 2, 3) == 0x6AE515C1C0AC7E37
    assert permutation(5, 1, 2).tolist() == [1, 3, 2, 4, 0]


def test_streams_keep_their_shards_in_every_epoch():
    sampler = EpochSampler(np.full(64, 100), seed=3, streams=8, window=4)
    owned = [set(sampler.shards_of_stream(stream).tolist()) for stream in range(8)]
    assert set.union(*owned) == set(range(64))
    assert sum(len(shards) for shards in owned) == 64  # equal shards: none is divided between streams
    for epoch in range(3):
        for stream in range(8):
            samples = sampler.samples(epoch, np.arange(stream, 6400, 8))
            assert set((samples // 100).tolist()) == owned[stream]


def test_node_opens_only_its_shards_in_every_batch():
    sampler = EpochSampler(np.full(64, 100), seed=3, streams=8, window=4)
    owned = [set(sampler.shards_of_stream(s).tolist()) for s in range(8)]
    for node in range(4):
        mine = rank_slice(64, node, 4)
        for batch in range(100):
            samples = sampler.samples(0, sampler.batch_positions(batch, 64)[mine])
            assert set((samples // 100).tolist()) <= owned[2 * node] | owned[2 * node + 1]


def test_a_window_is_shuffled_uniformly():
    """A uniform shuffle of n moves samples by n/3 on average and keeps almost no neighbours together."""
    sampler = EpochSampler(np.full(16, 250), seed=0, streams=1, window=16)
    samples = sampler.samples(0, np.arange(4000))
    assert np.abs(samples - np.arange(4000)).mean() == pytest.approx(4000 / 3, rel=0.05)
    assert (np.abs(np.diff(samples)) == 1).mean() < 0.003


def test_seeking_in_ten_million_samples_is_fast():
    sampler = EpochSampler(np.full(10_000, 1000), seed=0, streams=64, window=16)
    started = time.perf_counter()
    sampler.samples(5, sampler.batch_positions(2000, 4096)[rank_slice(4096, 77, 512)])
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize(("first", "count", "streams"), [(0, 12, 4), (24, 12, 4), (5, 12, 4), (8, 11, 4), (3, 2, 8)])
def test_a_part_of_a_batch_equals_that_part_of_the_whole(first, count, streams):
    whole = positions_by_stream(first, count, streams, slice(None))
    assert sorted(whole.tolist()) == list(range(first, first + count))
    assert (np.diff(whole % streams) >= 0).all()
    for part in (slice(0, 1), slice(2, 7), slice(10, 12)):
        assert positions_by_stream(first, count, streams, part).tolist() == whole[part].tolist()


def test_too_many_streams():
    with pytest.raises(ValueError, match="got 3 for 2 shards with samples, .* Set data.streams to 1..2, or build"):
        EpochSampler(np.array([4, 0, 4]), seed=0, streams=3, window=1)


def test_global_batch_not_divisible_by_the_world_size():
    with pytest.raises(ValueError, match=r"got 10 for 4 ranks, expected a multiple of 4.*to 8 or 12, or start"):
        rank_slice(10, 0, 4)
