"""Law 5 for all strategies at once: two gloo ranks train under each of them in one start of two processes."""

import json
import math

import pytest
import torch
from gloo import run_ranks

from rspretrain.nn.ema import matched_parameters
from rspretrain.strategies import resolve
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.deepspeed import read_config
from rspretrain.strategies.optim import OptimSettings
from strategies.toys import ALL, MOMENTUM, difference, here, samples, strategy, take, tensors

STEPS, BAD = range(20), (5, 1)


def on_rank() -> dict[str, object]:
    """Everything that two ranks find out about every strategy."""
    found: dict[str, object] = {}
    for name, stage in ALL:
        whole = strategy(name, stage)
        found[f"{name}{stage}"] = (take(whole, STEPS, bad=BAD), *tensors(whole), whole.updates)
        free = strategy(name, stage, clip_norm=None, optimizer="sgd")
        found[f"{name}{stage} unclipped"] = (take(free, STEPS), tensors(free)[0])
        found[f"{name}{stage} continued"] = continued(whole, name, stage)
        found[f"{name}{stage} refused"] = refused(name, stage)
    for name, stage in ALL[1:]:
        found[f"ddp -> {name}{stage}"] = moved(("ddp", 0), (name, stage))
        found[f"{name}{stage} -> ddp"] = moved((name, stage), ("ddp", 0))
    found["bf16"] = {f"{name}{stage}": take(strategy(name, stage, "bf16"), range(5)) for name, stage in ALL}
    found["bf16 teachers"] = {f"{name}{stage}": followed(name, stage) for name, stage in (("ddp", 0), ("deepspeed", 2))}
    found["bf16 dtypes"] = {value.dtype for value in tensors(strategy("deepspeed", 2, "bf16"))[0].values()}
    return found


def followed(name: str, stage: int) -> tuple[float, float]:
    """How far teachers move in 200 steps at momentum 0.9996 under bf16, and their distance from the same in float64.

    Of all parameters together; the first relative to their length, the second to the way that they have moved.
    """
    trained = strategy(name, stage, "bf16")
    pairs = [(student, teacher) for student, teacher in matched_parameters(trained.teachers)]
    start = torch.cat([teacher.flatten() for _, teacher in pairs]).double()
    want = start.clone()
    for step in range(200):
        take(trained, range(step, step + 1), momentum=0.9996)
        want.lerp_(torch.cat([student.detach().flatten() for student, _ in pairs]).double(), 1 - 0.9996)
    end = torch.cat([teacher.flatten() for _, teacher in pairs]).double()
    way = (want - start).norm()
    return (way / start.norm()).item(), ((end - want).norm() / way).item()


def continued(whole: object, name: str, stage: int) -> bool:
    """Whether steps 20 to 24 after loading into a new strategy are those of going on, bit for bit."""
    weights, state = tensors(whole)
    other = strategy(name, stage, seed=9)
    other.load(weights, state, whole.updates)
    same_losses = take(whole, range(20, 25)) == take(other, range(20, 25))
    return same_losses and all(torch.equal(*pair) for pair in zip(*(flat(s) for s in (whole, other)), strict=True))


def flat(strategy: object) -> list[torch.Tensor]:
    weights, state = tensors(strategy)
    return [*weights.values(), *state.values()]


def refused(name: str, stage: int) -> bool:
    """Whether a refused step leaves every weight, buffer and optimizer tensor as it was, teachers' included."""
    trained = strategy(name, stage)
    take(trained, range(3))
    before = flat(trained)
    batch = samples(3)
    if here().rank == 1:
        batch.x[:] = float("inf")
    report = trained.train_step(batch, 1e-3, MOMENTUM)
    untouched = all(torch.equal(*pair) for pair in zip(before, flat(trained), strict=True))
    return report.refused and not math.isfinite(report.grad_norm) and untouched and trained.updates == 3


def moved(start: tuple[str, int], end: tuple[str, int]) -> float:
    """How far ten steps under one strategy and ten under another are from twenty under the first."""
    whole, half, rest = strategy(*start), strategy(*start), strategy(*end, seed=9)
    take(whole, STEPS)
    take(half, range(10))
    rest.load(*tensors(half), half.updates)
    take(rest, range(10, 20))
    return max(difference(*pair) for pair in zip(tensors(rest), tensors(whole), strict=True))


@pytest.fixture(scope="module")
def found():
    return run_ranks(2, on_rank, timeout_s=280)


@pytest.fixture(scope="module")
def alone():
    single = strategy("single")
    return take(single, STEPS, bad=(BAD[0], 0)), *tensors(single), single.updates


@pytest.fixture(scope="module")
def alone_unclipped():
    single = strategy("single", clip_norm=None, optimizer="sgd")  # SGD: AdamW would hide another scale of gradients
    return take(single, STEPS), tensors(single)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{name}{stage}" for name, stage in ALL])
class TestTwoRanks:
    def test_equal_one_rank_after_20_steps(self, found, alone, name):
        losses, weights, state, updates = found[0][name]
        assert updates == alone[3] == 19
        assert losses[:5] + losses[6:] == pytest.approx(alone[0][:5] + alone[0][6:], rel=1e-5)
        assert math.isnan(losses[5])
        assert difference(weights, alone[1]) < 1e-5
        assert difference(state, alone[2]) < 1e-4  # second moments: squares of gradients

    def test_equal_one_rank_without_clipping(self, found, alone_unclipped, name):
        losses, weights = found[0][f"{name} unclipped"]
        assert losses == pytest.approx(alone_unclipped[0], rel=1e-5)
        assert difference(weights, alone_unclipped[1]) < 1e-5

    def test_hold_the_same_weights(self, found, name):
        assert all(torch.equal(found[0][name][1][key], value) for key, value in found[1][name][1].items())

    def test_go_on_bit_for_bit_after_loading(self, found, name):
        assert found[0][f"{name} continued"]
        assert found[1][f"{name} continued"]

    def test_refuse_a_step_that_failed_on_one(self, found, name):
        assert found[0][f"{name} refused"]
        assert found[1][f"{name} refused"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_run_moves_between_ddp_and_deepspeed(found, stage):
    assert found[0][f"ddp -> deepspeed{stage}"] < 1e-5
    assert found[0][f"deepspeed{stage} -> ddp"] < 1e-5


@pytest.mark.slow
def test_bf16_computes_alike_and_keeps_float32_weights(found):
    losses = list(found[0]["bf16"].values())
    assert all(one == pytest.approx(losses[0], rel=1e-3) for one in losses)
    assert losses[0] != found[0]["ddp0"][0][:5]
    assert found[0]["bf16 dtypes"] == {torch.float32, torch.int64}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp0", "deepspeed2"])
def test_bf16_teachers_move_as_in_float64(found, name):
    way, error = found[0]["bf16 teachers"][name]
    assert way > 1e-3
    assert error < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp0", "deepspeed2"])
def test_one_rank_goes_on_with_what_two_saved(found, alone, name):
    single, undisturbed = strategy("single", seed=9), strategy("single")
    single.load(*found[0][name][1:])
    undisturbed.load(*alone[1:])
    assert take(single, range(20, 25)) == pytest.approx(take(undisturbed, range(20, 25)), rel=1e-5)
    assert difference(tensors(single)[0], tensors(undisturbed)[0]) < 1e-5


def config_file(tmp_path, **content):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(content))
    return path


def test_unsupported_stage(tmp_path):
    with pytest.raises(ValueError, match=r"has ZeRO stage 3, expected one of \(0, 1, 2\).*Use configs/deepspeed/zero2"):
        read_config(config_file(tmp_path, zero_optimization={"stage": 3}))


def test_keys_that_the_run_decides(tmp_path):
    with pytest.raises(ValueError, match=r"sets gradient_clipping \(decided by optim.clip_norm\).*Remove them"):
        read_config(config_file(tmp_path, gradient_clipping=1.0))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"zero9.json', expected a DeepSpeed JSON file"):
        read_config(tmp_path / "zero9.json")


def test_lars_needs_whole_layers():
    settings = StrategySettings(name="deepspeed")
    with pytest.raises(ValueError, match="got lars under ZeRO stage 1.*Use strategy.deepspeed=configs/deepspeed/zero0"):
        resolve(settings, here(), OptimSettings(name="lars"), deepspeed_launcher=False)
