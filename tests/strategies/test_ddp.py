"""Tests of the single strategy and of `auto`; `test_every_strategy.py` compares all strategies."""

import pytest
import torch

from rspretrain.strategies import resolve_strategy
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.optim import OptimSettings
from rspretrain.world import World
from strategies.toys import strategy, take, tensors

CPU = torch.device("cpu")


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "lars", "sgd"])
def test_loaded_state_continues_bit_for_bit(optimizer):
    whole = strategy("single", optimizer=optimizer)
    take(whole, range(4))
    other = strategy("single", optimizer=optimizer)
    other.load(*tensors(whole), whole.updates)
    assert take(whole, range(4, 8)) == take(other, range(4, 8))


def test_state_before_the_first_update():
    whole, other = strategy("single"), strategy("single")
    take(other, range(2))
    other.load(*tensors(whole), whole.updates)
    assert take(whole, range(3)) == take(other, range(3))


@pytest.mark.parametrize(
    ("name", "ranks", "launcher", "expected"),
    [
        ("auto", 1, False, "single"),
        ("auto", 2, False, "ddp"),
        ("auto", 2, True, "deepspeed"),
        ("ddp", 1, False, "single"),
        ("fsdp", 1, False, "single"),
        ("fsdp", 2, True, "fsdp"),
    ],
)
def test_auto(name, ranks, launcher, expected):
    world = World(0, ranks, 0, CPU)
    assert resolve_strategy(StrategySettings(name=name), world, OptimSettings(), launcher).name == expected


def test_single_needs_one_process():
    with pytest.raises(ValueError, match="got single with 2 ranks, expected ddp, fsdp or"):
        resolve_strategy(StrategySettings(name="single"), World(0, 2, 0, CPU), OptimSettings(), False)
