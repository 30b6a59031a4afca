"""A run with teachers and centers resumes under another strategy from a checkpoint."""

from pathlib import Path

import pytest
from gloo import run_ranks
from torch import Tensor
from torture import times

from rspretrain.engine.checkpoint import Checkpoints, RunState
from rspretrain.strategies import Strategy
from strategies.jobs import CASES, STEPS, apart, land_shards, start, take, tensors
from strategies.toys import this_world

HALF = STEPS // 2
WAYS = (("ddp", 0, "fsdp", 0), ("fsdp", 0, "ddp", 0), ("ddp", 0, "deepspeed", 3), ("deepspeed", 3, "fsdp", 0))[
    : times(2, 4)
]
WITH_TEACHERS = ("gsc_mim", "byol", "dino", "moco_v3")[: times(1, 4)]

Found = tuple[list[float], dict[str, Tensor], float | None]


def through_a_checkpoint(folder: Path, case: str, writer: tuple[str, int], reader: tuple[str, int]) -> Found:
    """Ten steps with each strategy; losses of all steps, weights and teacher drift."""
    shards, checkpoints = folder / "shards", Checkpoints(folder / f"{case} {writer} {reader}", keep=1)
    job, first = start(shards, case, *writer)
    losses = take(job, first, range(HALF))
    checkpoints.save(first, state(first))
    job, second = start(shards, case, *reader)
    take(job, second, range(2))  # loading must overwrite the results of these steps
    assert checkpoints.load_latest(second) == state(first)
    losses += take(job, second, range(HALF, STEPS))
    return losses, tensors(second), second.teacher_drift()


def state(strategy: Strategy) -> RunState:
    return RunState(HALF, strategy.updates, 16 * HALF, strategy.settings.name, this_world().size, "config", "shards")


def on_rank(folder: Path) -> dict[tuple[str, ...], Found]:
    found = {}
    for case in WITH_TEACHERS:
        for name, stage, other, other_stage in WAYS:
            label = (case, f"{name}{stage}", f"{other}{other_stage}")
            found[label] = through_a_checkpoint(folder, case, (name, stage), (other, other_stage))
    return found


@pytest.mark.slow
def test_a_change_of_strategy_equals_one_process(tmp_path: Path) -> None:
    shards = land_shards(tmp_path / "shards")
    alone = {}
    for case in WITH_TEACHERS:
        job, single = start(shards, case, "single", 0)
        alone[case] = take(job, single, range(STEPS)), tensors(single), single.teacher_drift()
    for label, (losses, weights, drift) in run_ranks(2, on_rank, tmp_path, timeout_s=280)[0].items():
        expected, ours, ours_drift = alone[label[0]]
        tolerance = CASES[label[0]].tolerance
        assert losses == pytest.approx(expected, rel=tolerance), label
        assert max(apart(weights, ours).values()) < tolerance, label
        assert drift == pytest.approx(ours_drift, rel=1e-5), label
