import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import check_mixture
from torture import times

from rspretrain.streaming.batch_plan import EpochPlan
from rspretrain.streaming.mixture import BLOCK, Mixture, samples_per_block
from rspretrain.streaming.sampler import EpochSampler, rank_slice


def mixture(sizes, weights, streams=1, window=2, seed=0, global_batch=8):
    samplers = [
        EpochSampler(np.array(each), seed=seed + n, streams=streams, window=window) for n, each in enumerate(sizes)
    ]
    return Mixture(samplers, weights, global_batch, seed)


@settings(max_examples=times(200, 3000), deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=4, max_size=8), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4),
    seed=st.integers(0, 2**63),
    streams=st.integers(1, 4),
    window=st.integers(1, 3),
    world=st.integers(1, 8),
    per_rank=st.integers(1, 4),
    steps=st.integers(1, 12),
    restart=st.integers(0, 12),
)
def test_every_sample_once_for_any_world_size(sizes, weights, seed, streams, window, world, per_rank, steps, restart):
    made = mixture(sizes, weights[: len(sizes)], streams, window, seed, world * per_rank)
    check_mixture(made, world * per_rank, world, steps, restart)


def test_weights_are_exact_in_every_block_and_samples_are_shuffled_within_it():
    made = mixture([[50] * 4, [20] * 4, [900] * 4], [0.7, 0.2, 0.1], global_batch=100)
    assert made.counts(BLOCK // 100).tolist() == [7000, 2000, 1000]
    assert made.counts(3 * BLOCK // 100).tolist() == [21000, 6000, 3000]
    sources = np.array([made.indices(step).source for step in range(BLOCK // 100)])
    share = (sources == 0).mean(axis=1)
    assert share.std() == pytest.approx((0.7 * 0.3 / 100) ** 0.5, rel=0.3)  # as in independent draws
    assert made.steps_per_epoch == (200 + 80 + 3600) // 100


def test_weights_are_relative():
    assert samples_per_block([3, 1]).tolist() == [7500, 2500]
    assert samples_per_block([1, 1, 1]).tolist() == [3334, 3333, 3333]
    with pytest.raises(ValueError, match=r"got the weights \[1.0, 1e-05\], expected at least one .*number 1 gets"):
        samples_per_block([1.0, 1e-5])


def test_a_node_reads_only_the_shards_of_its_streams():
    made = mixture([[9] * 8, [5] * 16], [0.6, 0.4], streams=4, global_batch=8)
    for node in range(2):
        part = rank_slice(8, node, 2)
        for number, sampler in enumerate(made.samplers):
            own = {shard for stream in (2 * node, 2 * node + 1) for shard in sampler.shards_of_stream(stream).tolist()}
            for step in range(40):
                indices = made.indices(step, part)
                selected = indices.source == number
                for epoch, position in zip(indices.epoch[selected], indices.position[selected], strict=True):
                    sample = sampler.samples(int(epoch), np.array([position]))
                    assert int(np.searchsorted(np.cumsum(sampler.sizes), sample[0], side="right")) in own


@pytest.mark.parametrize("world", [1, 2, 4])
def test_windows_contain_all_samples_of_the_steps(world):
    made = mixture([[3] * 8, [5] * 6, [2] * 5], [0.6, 0.3, 0.1], streams=2, window=1)
    for rank in range(world):
        part = rank_slice(8, rank, world)
        for step in range(30):
            windows = made.windows(step, step + 2, part)
            for near in (step, step + 1, step + 2):
                indices = made.indices(near, part)
                for number, epoch, position in zip(indices.source, indices.epoch, indices.position, strict=True):
                    ((stream, (window, _)),) = made.samplers[number].windows(int(epoch), np.array([position])).items()
                    low, high = windows[number][stream]
                    assert low <= window <= high


def test_seeking_costs_one_block():
    made = mixture([[1000] * 64, [1000] * 128], [0.5, 0.5], streams=64, global_batch=4096)
    made.indices(1_000_000, rank_slice(4096, 77, 512))
    assert made._block.cache_info().misses == 1
    single = EpochPlan(made.samplers[0], 64)
    assert single.counts(5).tolist() == [320]


def test_mixture_is_pinned():
    """Values of version 1: a change of the order breaks every resumed run."""
    made = mixture([[3, 4], [2, 2, 2]], [0.75, 0.25], seed=7, global_batch=10)
    indices = made.indices(2)
    assert indices.source.tolist() == PINNED[0]
    assert indices.epoch.tolist() == PINNED[1]
    assert indices.position.tolist() == PINNED[2]


PINNED = (
    [0, 1, 0, 0, 0, 1, 0, 0, 1, 0],
    [2, 0, 2, 2, 2, 1, 2, 2, 1, 3],
    [1, 5, 2, 3, 4, 0, 5, 6, 1, 0],
)
