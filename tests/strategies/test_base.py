import math

import pytest
import torch

from rspretrain.strategies import build_strategy
from rspretrain.strategies.base import StrategySettings, poison
from rspretrain.strategies.optim import OptimSettings
from strategies.toys import MOMENTUM, Contrast, build, here, samples, strategy, take, tensors


def test_poison_is_the_identity_where_the_loss_is_finite():
    x = torch.tensor(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(poison(x * 2), x)
    assert gradient == 2.0


def test_an_infinite_loss_with_a_finite_gradient_is_told_by_the_gradient():
    x = torch.tensor(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(poison(x * 2 + torch.inf), x)
    assert gradient.isnan()


def test_a_refused_step_moves_nothing_not_even_norm_statistics():
    single = strategy("single")
    take(single, range(2))
    before = tensors(single)
    batch = samples(2)
    batch.x[0] = torch.nan
    report = single.train_step(batch, 1e-3, MOMENTUM)
    assert report.refused
    assert math.isnan(report.grad_norm)
    for old, new in zip(before, tensors(single), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def sgd(clip_norm):
    torch.manual_seed(0)
    optim = OptimSettings(name="sgd", clip_norm=clip_norm, weight_decay=0.0)
    return build(StrategySettings(name="single"), optim)


def test_clipping_is_by_the_norm_before_it():
    free, clipped = sgd(None), sgd(0.01)
    start = tensors(free)[0]["head.1.weight"]
    moved = []
    for one in (free, clipped):
        norm = one.train_step(samples(0), 1.0, MOMENTUM).grad_norm
        moved.append((tensors(one)[0]["head.1.weight"] - start) / (1.0 if one is free else 0.01 / norm))
    assert moved[1] == pytest.approx(moved[0], rel=1e-3, abs=1e-5)


def test_teachers_move_by_their_share_of_the_way_and_keep_their_own_statistics():
    single = strategy("single")
    before = tensors(single)[0]
    take(single, range(1), momentum=0.75)
    after = tensors(single)[0]
    moved = 0
    for name in before:
        student = name.replace("teacher.0.", "conv.").replace("teacher.1.", "head.")
        if student == name or "running" in name or "tracked" in name:
            continue
        torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * after[student], rtol=1e-6, atol=1e-7)
        moved += not torch.equal(after[name], before[name])
    assert moved == 9  # all of them
    assert not torch.equal(after["teacher.0.1.running_mean"], after["conv.1.running_mean"])  # of the other flip


def test_drift_is_the_distance_relative_to_the_student():
    single = strategy("single")
    assert single.teacher_drift() == 0.0
    take(single, range(3))
    weights = tensors(single)[0]
    flat = [torch.cat([value.flatten() for name, value in weights.items() if name.startswith(prefixes)
                       and "running" not in name and "tracked" not in name]).double()
            for prefixes in (("teacher.",), ("conv.", "head."))]  # fmt: skip
    assert single.teacher_drift() == pytest.approx(((flat[0] - flat[1]).norm() / flat[1].norm()).item(), rel=1e-6)


def test_a_step_of_teachers_needs_a_momentum():
    with pytest.raises(AssertionError, match="momentum=None with 2 teachers"):
        strategy("single").train_step(samples(0), 1e-3)


def test_no_teachers_no_drift():
    objective = Contrast()
    plain = build_strategy(StrategySettings(name="single"), here(), objective, OptimSettings())
    assert plain.teacher_drift() is None
    before = objective.teacher[0][0].weight.clone()
    plain.train_step(samples(0), 1e-3)
    assert torch.equal(objective.teacher[0][0].weight, before)
