from rspretrain.engine.metric_logger import SaveClock


def test_due_by_steps():
    clock = SaveClock(5, None)
    assert [step for step in range(1, 12) if clock.is_due(step)] == [5, 10]


def test_due_by_minutes_since_the_last_one():
    now = [0.0]
    clock = SaveClock(None, 2.0, lambda: now[0])
    now[0] = 119.0
    assert not clock.is_due(1)
    now[0] = 120.0
    assert clock.is_due(2)
    clock.restart()
    assert not clock.is_due(3)


def test_never_due():
    assert not SaveClock(None, None).is_due(10**9)
