import numpy as np
import pytest

from rspretrain.streaming.batch_plan import EpochPlan
from rspretrain.streaming.lookahead import Lookahead, cache_bytes_needed, streams_of_ranks
from rspretrain.streaming.sampler import EpochSampler, rank_slice

SIZES = np.array([7, 8, 0, 3, 8, 8, 5, 8, 8, 1, 8, 8])


def make_sampler(streams=2, window=2):
    return EpochSampler(SIZES, seed=4, streams=streams, window=window)


def shards_of_samples(samples):
    return set(np.searchsorted(np.cumsum(SIZES), samples, side="right").tolist())


@pytest.mark.parametrize(("streams", "world"), [(1, 1), (2, 1), (2, 2), (3, 4)])
def test_shards_of_a_step_are_requested_before_and_during_it(streams, world):
    sampler = make_sampler(streams)
    steps = len(sampler) // 8
    for rank in range(world):
        part = rank_slice(8, rank, world)
        lookahead = Lookahead(EpochPlan(sampler, 8), part)
        for step in range(2 * steps - 2):
            (requested,) = lookahead.shards(step, step + 1)
            assert len(set(requested)) == len(requested)
            for near in (step, step + 1):
                epoch, batch = divmod(near, steps)
                samples = sampler.samples(epoch, sampler.batch_positions(batch, 8)[part])
                assert shards_of_samples(samples) <= set(requested)


def test_the_next_window_comes_last():
    sampler = make_sampler(streams=1)
    lookahead = Lookahead(EpochPlan(sampler, 8), slice(0, 8))
    assert lookahead.shards(0, 0)[0] == [
        *sampler.shards_of_window(0, 0).tolist(),
        *sampler.shards_of_window(0, 1).tolist(),
    ]
    last = sampler.num_windows(0) - 1  # the last window of an epoch, followed by the first of the next
    (shards,) = lookahead.shards(len(sampler) // 8 - 1, len(sampler) // 8 - 1)
    assert shards[-2:] == [n for n in sampler.shards_of_window(0, last + 1).tolist() if n in shards[-2:]]


def test_windows_cost_no_permutation_of_samples():
    sampler = make_sampler()
    Lookahead(EpochPlan(sampler, 8), slice(0, 8)).shards(0, 3)
    assert sampler._samples.cache_info().currsize == 0


def test_cache_bytes_that_a_node_needs():
    sampler, sizes = make_sampler(streams=4, window=1), np.full(12, 100)
    one = cache_bytes_needed(sampler, sizes, 8, 1, range(1), 4)
    assert one == min(100 * len(sampler.shards_of_stream(0)), 300)
    assert cache_bytes_needed(sampler, sizes, 8, 1, range(4), 4) <= 1100  # never more than the whole set
    assert streams_of_ranks(sampler, 8, range(2), 4) == [0, 1]
    assert streams_of_ranks(sampler, 6, range(1), 2) == [0, 1, 2, 3]
