import pytest
from lightly.utils.scheduler import cosine_schedule

from rspretrain.schedules import cosine, warmup_cosine, warmup_steps


def test_ends():
    assert cosine(0, 10, 3.0, 1.0) == 3.0
    assert cosine(5, 10, 3.0, 1.0) == pytest.approx(2.0)
    assert cosine(9, 10, 3.0, 1.0) > 1.0
    assert cosine(10, 10, 3.0, 1.0) == cosine(99, 10, 3.0, 1.0) == 1.0


def test_inclusive_equals_lightly():
    ours = [cosine(k, 10, 0.99, 1.0, inclusive=True) for k in range(10)]
    assert ours == pytest.approx([cosine_schedule(k, 10, 0.99, 1.0) for k in range(10)])
    assert ours[-1] == 1.0


def test_warm_up():
    rates = [warmup_cosine(k, 12, 4, 2.0, 0.5) for k in range(12)]
    assert rates[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert rates[8] == pytest.approx(1.25)  # half of the 8 remaining steps
    assert 0.5 < rates[11] < 0.6


def test_no_warm_up_and_only_warm_up():
    assert warmup_cosine(0, 5, 0, 2.0, 0.0) == 2.0
    assert [warmup_cosine(k, 2, 2, 2.0, 0.0) for k in range(3)] == [0.0, 1.0, 0.0]
    assert cosine(0, 1, 2.0, 0.0, inclusive=True) == 0.0


def test_steps_after_the_warm_up():
    rates = [warmup_steps(k, 4, 2.0, [6, 9], 0.5) for k in range(12)]
    assert rates == [warmup_cosine(k, 12, 4, 2.0, 0.0) for k in range(4)] + [2.0] * 2 + [1.0] * 3 + [0.5] * 3


def test_without_milestones_the_rate_is_constant():
    assert [warmup_steps(k, 2, 3.0) for k in (0, 1, 2, 3, 10**6)] == [0.0, 1.5, 3.0, 3.0, 3.0]
    assert warmup_steps(0, 0, 3.0, [1], 0.1) == 3.0
