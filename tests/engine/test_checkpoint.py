"""A process that is killed at any moment leaves a checkpoint that loads: the old one or the new one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from strategies.toys import difference, strategy, take, tensors
from torture import times

from rspretrain.engine.checkpoint import (
    OPTIMIZER,
    STATE,
    WEIGHTS,
    Checkpoints,
    DamagedCheckpointError,
    RunState,
    read_checkpoint,
)

ROOT = Path(__file__).parents[2]


def state(step: int) -> RunState:
    return RunState(step, step, 16 * step, "single", 1, "config", "shards")


def saved(folder, steps=(3, 6), keep=3):
    trained, checkpoints, kept = strategy("single"), Checkpoints(folder, keep), {}
    for step in range(1, max(steps) + 1):
        take(trained, range(step - 1, step))
        if step in steps:
            checkpoints.save(trained, state(step))
            kept[step] = tensors(trained)
    return checkpoints, kept


def assert_loads(checkpoints, step, kept):
    other = strategy("single", seed=9)
    assert checkpoints.load_latest(other) == state(step)
    assert all(difference(*pair) == 0 for pair in zip(tensors(other), kept[step], strict=True))


def test_load_latest(tmp_path):
    checkpoints, kept = saved(tmp_path)
    assert_loads(checkpoints, 6, kept)


def test_no_checkpoint(tmp_path):
    assert Checkpoints(tmp_path / "none", 3).load_latest(strategy("single")) is None


def test_the_newest_checkpoints_are_kept(tmp_path):
    saved(tmp_path, steps=(1, 2, 3, 4, 5), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000004", "step_00000005"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
@pytest.mark.parametrize("file", [WEIGHTS, OPTIMIZER])
def test_a_damaged_checkpoint_is_skipped(tmp_path, file, damage):
    checkpoints, kept = saved(tmp_path)
    damage(tmp_path / "step_00000006" / file)
    with pytest.warns(UserWarning, match=r"step_00000006 is damaged: .* Using the previous checkpoint"):
        assert_loads(checkpoints, 3, kept)


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_checkpoint_with_a_damaged_state_is_skipped(tmp_path, damage):
    checkpoints, kept = saved(tmp_path)
    damage(tmp_path / "step_00000006" / STATE)
    with pytest.warns(UserWarning, match=r"is damaged: state.json cannot be read"):
        assert_loads(checkpoints, 3, kept)


def test_all_damaged(tmp_path):
    checkpoints, _ = saved(tmp_path)
    for path in tmp_path.glob("step_*"):
        cut(path / WEIGHTS)
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(RuntimeError, match="All checkpoints in .* are damaged.*Restore one from a"),
    ):
        checkpoints.load_latest(strategy("single"))


def test_saving_again_replaces_a_damaged_checkpoint(tmp_path):
    checkpoints, kept = saved(tmp_path)
    cut(tmp_path / "step_00000006" / WEIGHTS)
    with pytest.raises(DamagedCheckpointError, match="has SHA-256"):
        read_checkpoint(tmp_path / "step_00000006")
    saved(tmp_path)
    assert_loads(checkpoints, 6, kept)


def save_forever(folder: Path, step: int) -> None:
    trained = strategy("single")
    checkpoints = Checkpoints(folder, keep=2)
    while True:
        step += 1
        with torch.no_grad():
            for parameter in trained.objective.parameters():
                parameter.fill_(step)
        checkpoints.save(trained, state(step))


def listing(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.exists() else set()


def kill_savers(folder: Path, kills: int) -> None:
    """Fork processes that save, kill each at a random moment, and load. A fork need not import torch again."""
    torch.set_num_threads(1)
    chance, seen, step = random.Random(0), 0, 0
    for _ in range(kills):
        before = listing(folder)
        child = os.fork()
        if child == 0:
            save_forever(folder, step)
        deadline = time.monotonic() + 10
        while listing(folder) == before and time.monotonic() < deadline:  # on a busy machine, the fork takes long
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.09))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        other = strategy("single")
        found = Checkpoints(folder, keep=2).load_latest(other)
        if found is not None:
            seen, step = seen + 1, found.step
            assert {value.unique().item() for value in other.objective.parameters()} == {float(found.step)}
    assert seen > kills // 2, f"only {seen} of {kills} loaded anything"


@pytest.mark.slow
def test_the_old_or_the_new_checkpoint_loads_after_a_kill(tmp_path):
    code = f"from engine.test_checkpoint import *; kill_savers(Path({str(tmp_path)!r}), {times(25, 500)})"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=times(120, 1200),
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_keep_only(tmp_path):
    for step in (3, 5, 8):
        (tmp_path / f"step_{step:08d}").mkdir()
        (tmp_path / f"step_{step:08d}" / "weights").write_text("w")
    Checkpoints(tmp_path, keep=1).keep_only(5)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000005"]
