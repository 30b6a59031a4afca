import numpy as np
import pytest

from rspretrain.streaming.batch_plan import EpochPlan
from rspretrain.streaming.sampler import EpochSampler, rank_slice


def make_plan(global_batch=6):
    return EpochPlan(EpochSampler(np.array([5, 8, 7]), seed=1, streams=1, window=2), global_batch)


def test_the_short_last_batch_is_dropped():
    plan = make_plan()
    assert (plan.steps_per_epoch, plan.dropped) == (3, 2)
    for epoch in range(2):
        seen = np.concatenate([plan.indices(3 * epoch + step).position for step in range(3)])
        assert sorted(seen.tolist()) == list(range(18))
        assert set(plan.indices(3 * epoch).epoch.tolist()) == {epoch}


@pytest.mark.parametrize("world", [2, 3, 6])
def test_ranks_take_slices(world):
    plan = make_plan()
    parts = [plan.indices(4, rank_slice(6, rank, world)).position for rank in range(world)]
    assert np.concatenate(parts).tolist() == plan.indices(4).position.tolist()


def test_windows_span_the_first_to_the_last_step():
    plan = make_plan()
    (one_step,), (four_steps,) = plan.windows(0, 0, slice(0, 6)), plan.windows(0, 3, slice(0, 6))
    assert one_step[0][0] == four_steps[0][0] == 0
    assert four_steps[0][1] >= plan.samplers[0].num_windows(0)  # a window of the second epoch
