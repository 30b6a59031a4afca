import numpy as np
import pytest

from rspretrain.streaming.batch_plan import EpochPlan
from rspretrain.streaming.sampler import EpochSampler, rank_slice


def epochs(global_batch=6):
    return EpochPlan(EpochSampler(np.array([5, 8, 7]), seed=1, streams=1, window=2), global_batch)


def test_the_rest_of_an_epoch_is_left_out():
    batches = epochs()
    assert (batches.steps_per_epoch, batches.dropped) == (3, 2)
    for epoch in range(2):
        seen = np.concatenate([batches.picks(3 * epoch + step).position for step in range(3)])
        assert sorted(seen.tolist()) == list(range(18))
        assert set(batches.picks(3 * epoch).epoch.tolist()) == {epoch}


@pytest.mark.parametrize("world", [2, 3, 6])
def test_ranks_take_slices(world):
    batches = epochs()
    parts = [batches.picks(4, rank_slice(6, rank, world)).position for rank in range(world)]
    assert np.concatenate(parts).tolist() == batches.picks(4).position.tolist()


def test_windows_reach_from_the_first_step_to_the_last():
    batches = epochs()
    (near,), (far,) = batches.windows(0, 0, slice(0, 6)), batches.windows(0, 3, slice(0, 6))
    assert near[0][0] == far[0][0] == 0
    assert far[0][1] >= batches.orders[0].num_windows(0)  # of the second epoch
