from rspretrain.engine.metric_logger import CheckpointTimer


def test_due_by_steps():
    timer = CheckpointTimer(5, None)
    assert [step for step in range(1, 12) if timer.is_due(step)] == [5, 10]


def test_due_by_minutes_since_the_last_checkpoint():
    now = [0.0]
    timer = CheckpointTimer(None, 2.0, lambda: now[0])
    now[0] = 119.0
    assert not timer.is_due(1)
    now[0] = 120.0
    assert timer.is_due(2)
    timer.restart()
    assert not timer.is_due(3)


def test_never_due():
    assert not CheckpointTimer(None, None).is_due(10**9)
