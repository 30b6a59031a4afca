import numpy as np
import pytest

from rspretrain.streaming.batch_plan import EpochPlan
from rspretrain.streaming.lookahead import Lookahead, bytes_at_once, streams_of
from rspretrain.streaming.sampler import EpochSampler, rank_slice

SIZES = np.array([7, 8, 0, 3, 8, 8, 5, 8, 8, 1, 8, 8])


def order(streams=2, window=2):
    return EpochSampler(SIZES, seed=4, streams=streams, window=window)


def shards_of_samples(samples):
    return set(np.searchsorted(np.cumsum(SIZES), samples, side="right").tolist())


@pytest.mark.parametrize(("streams", "world"), [(1, 1), (2, 1), (2, 2), (3, 4)])
def test_whatever_a_step_touches_is_wanted_before_and_at_it(streams, world):
    epochs = order(streams)
    steps = len(epochs) // 8
    for rank in range(world):
        part = rank_slice(8, rank, world)
        horizon = Lookahead(EpochPlan(epochs, 8), part)
        for step in range(2 * steps - 2):
            (wanted,) = horizon.shards(step, step + 1)
            assert len(set(wanted)) == len(wanted)
            for near in (step, step + 1):
                epoch, batch = divmod(near, steps)
                samples = epochs.samples(epoch, epochs.batch_positions(batch, 8)[part])
                assert shards_of_samples(samples) <= set(wanted)


def test_the_next_window_comes_last():
    epochs = order(streams=1)
    horizon = Lookahead(EpochPlan(epochs, 8), slice(0, 8))
    assert horizon.shards(0, 0)[0] == [
        *epochs.shards_of_window(0, 0).tolist(),
        *epochs.shards_of_window(0, 1).tolist(),
    ]
    last = epochs.num_windows(0) - 1  # the last window of an epoch, and the first of the next
    (wanted,) = horizon.shards(len(epochs) // 8 - 1, len(epochs) // 8 - 1)
    assert wanted[-2:] == [n for n in epochs.shards_of_window(0, last + 1).tolist() if n in wanted[-2:]]


def test_windows_cost_no_permutation_of_samples():
    epochs = order()
    Lookahead(EpochPlan(epochs, 8), slice(0, 8)).shards(0, 3)
    assert epochs._samples.cache_info().currsize == 0


def test_what_a_node_holds_at_once():
    epochs, sizes = order(streams=4, window=1), np.full(12, 100)
    one = bytes_at_once(epochs, sizes, 8, 1, range(1), 4)
    assert one == min(100 * len(epochs.shards_of_stream(0)), 300)
    assert bytes_at_once(epochs, sizes, 8, 1, range(4), 4) <= 1100  # never more than there is
    assert streams_of(epochs, 8, range(2), 4) == [0, 1]
    assert streams_of(epochs, 6, range(1), 2) == [0, 1, 2, 3]
