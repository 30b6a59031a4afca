"""A teacher at momentum 0.9996 moves under bf16, too: parameters are float32 everywhere (design.md D6)."""

import pytest
import torch
from gloo import run_ranks
from torture import times

from strategies.toys import RATES, samples, strategy

MOMENTUM, STEPS = 0.9996, 200
WHICH = (("fsdp", 0), ("deepspeed", 3), ("deepspeed", 2), ("ddp", 0))[: times(2, 4)]


def followed(name: str, stage: int) -> tuple[float, float]:
    """How far this rank's part of the teachers moved, relative to its length; and off a float64 recursion by what
    share of that way."""
    trained = strategy(name, stage, precision="bf16")
    teachers, students = trained._local_pairs()
    start = torch.cat([teacher.flatten() for teacher in teachers]).double()
    want = start.clone()
    for step in range(STEPS):
        trained.train_step(samples(step), RATES["adamw"], MOMENTUM)
        teachers, students = trained._local_pairs()
        want.lerp_(torch.cat([student.flatten() for student in students]).double(), 1 - MOMENTUM)
    end = torch.cat([teacher.flatten() for teacher in teachers]).double()
    way = (want - start).norm()
    return (way / start.norm()).item(), ((end - want).norm() / way).item()


def on_rank() -> dict[str, tuple[float, float]]:
    return {f"{name}{stage}": followed(name, stage) for name, stage in WHICH}


@pytest.mark.slow
def test_teachers_follow_within_a_thousandth_of_float64():
    found = run_ranks(2, on_rank, timeout_s=280)
    for rank in found:
        for name, (way, error) in rank.items():
            assert way > 1e-3, name
            assert error < 1e-3, name
