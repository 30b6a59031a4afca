"""A teacher with momentum 0.9996 is updated correctly in bf16 runs: parameters are float32 under every strategy."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gloo import run_ranks
from torch import Tensor
from torture import matrix, times

from rspretrain.strategies import Strategy
from strategies import jobs
from strategies.toys import RATES, samples, strategy

MOMENTUM, STEPS = 0.9996, 200
REAL_STEPS, RATE = times(40, 200), 2e-3
SHARDED = (("fsdp", 0), ("deepspeed", 3))
WHOLE = (("deepspeed", 2), ("ddp", 0), ("deepspeed", 0), ("deepspeed", 1))
WHICH = (*SHARDED, *WHOLE)[: times(2, 6)]
WITH_TEACHERS = ("byol", "dino", "moco_v3", "gsc_mim")


def followed(trained: Strategy, steps: Iterator[object]) -> tuple[float, float]:
    """The distance that this rank's part of the teachers moved, relative to its norm, and the error of that distance
    relative to a float64 recursion."""
    start = flat(trained._local_pairs()[0])
    expected = start.clone()
    for _ in steps:
        expected.lerp_(flat(trained._local_pairs()[1]), 1 - MOMENTUM)
    way = (expected - start).norm()
    return (way / start.norm()).item(), ((flat(trained._local_pairs()[0]) - expected).norm() / way).item()


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts]).double()


def toy(name: str, stage: int) -> tuple[float, float]:
    trained = strategy(name, stage, precision="bf16")
    return followed(trained, (trained.train_step(samples(step), RATES["adamw"], MOMENTUM) for step in range(STEPS)))


def real(shards: Path, case: str, name: str, stage: int) -> tuple[float, float]:
    job, trained = jobs.start(shards, case, name, stage, precision="bf16")
    return followed(trained, jobs.steps(job, trained, range(REAL_STEPS), RATE, MOMENTUM))


def on_rank(shards: Path) -> dict[str, tuple[float, float]]:
    found = {f"{name}{stage}": toy(name, stage) for name, stage in WHICH}
    pairs = matrix(WITH_TEACHERS, WHICH, each=1)
    return found | {f"{case} {name}{stage}": real(shards, case, name, stage) for case, (name, stage) in pairs}


@pytest.mark.slow
@pytest.mark.timeout(1900)
def test_teachers_follow_students_within_0_1_percent_of_float64(tmp_path: Path) -> None:
    """Measured error: at most 2.6e-4 of the distance that the teachers moved.

    Students must move far enough: if a student hardly moves, a teacher's update per step is below float32 precision.
    With 200 steps at a learning rate that decays to 0, teachers moved by 4e-4 of their norm, and 1 % of that was lost.
    """
    found = run_ranks(2, on_rank, jobs.land_shards(tmp_path / "shards"), timeout_s=1880)
    for rank in found:
        for name, (way, error) in rank.items():
            assert way > 5e-6 * (STEPS if " " not in name else REAL_STEPS), name
            assert error < 1e-3, name
