"""What is left to try of the replicated strategies; `test_deepspeed.py` compares all of them with each other."""

import pytest
import torch
from gloo import run_ranks

from rspretrain.strategies import Strategy, resolve
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.optim import OptimSettings
from rspretrain.world import World
from strategies.toys import build, difference, take, tensors

CPU = torch.device("cpu")


def with_optimizer(name: str, optimizer: str) -> Strategy:
    torch.manual_seed(0)
    return build(StrategySettings(name=name), OptimSettings(name=optimizer, clip_norm=0.5))


def weights_after(name: str, optimizer: str) -> dict[str, torch.Tensor]:
    trained = with_optimizer(name, optimizer)
    take(trained, range(10))
    return tensors(trained)[0]


def weights_of_both(name: str) -> list[dict[str, torch.Tensor]]:
    return [weights_after(name, optimizer) for optimizer in ("lars", "sgd")]


def test_two_ranks_equal_one_under_other_optimizers():
    for two, one in zip(run_ranks(2, weights_of_both, "ddp")[1], weights_of_both("single"), strict=True):
        assert difference(two, one) < 1e-5


@pytest.mark.parametrize("optimizer", ["adamw", "lars", "sgd"])
def test_loaded_state_goes_on_bit_for_bit(optimizer):
    whole = with_optimizer("single", optimizer)
    take(whole, range(4))
    other = with_optimizer("single", optimizer)
    other.load(*tensors(whole), whole.updates)
    assert take(whole, range(4, 8)) == take(other, range(4, 8))


def test_state_of_an_optimizer_that_never_moved():
    whole, other = with_optimizer("single", "adamw"), with_optimizer("single", "adamw")
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
    ],
)
def test_auto(name, ranks, launcher, expected):
    world = World(0, ranks, 0, CPU)
    assert resolve(StrategySettings(name=name), world, OptimSettings(), launcher).name == expected


def test_single_is_for_one():
    with pytest.raises(ValueError, match="got single in a world of 2 ranks.*Use strategy.name=ddp"):
        resolve(StrategySettings(name="single"), World(0, 2, 0, CPU), OptimSettings(), False)
