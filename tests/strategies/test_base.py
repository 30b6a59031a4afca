import math

import pytest
import torch

from rspretrain.strategies import build_strategy
from rspretrain.strategies.base import StrategySettings, poison
from rspretrain.strategies.optim import OptimSettings
from strategies.toys import Contrast, here, samples, strategy, take, tensors


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
    report = single.train_step(batch, 1e-3)
    assert report.refused
    assert math.isnan(report.grad_norm)
    for old, new in zip(before, tensors(single), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def sgd(clip_norm):
    torch.manual_seed(0)
    optim = OptimSettings(name="sgd", clip_norm=clip_norm, weight_decay=0.0)
    return build_strategy(StrategySettings(name="single"), here(), Contrast(), optim)


def test_clipping_is_by_the_norm_before_it():
    free, clipped = sgd(None), sgd(0.01)
    start = tensors(free)[0]["head.1.weight"]
    moved = []
    for one in (free, clipped):
        norm = one.train_step(samples(0), 1.0).grad_norm
        moved.append((tensors(one)[0]["head.1.weight"] - start) / (1.0 if one is free else 0.01 / norm))
    assert moved[1] == pytest.approx(moved[0], rel=1e-3, abs=1e-5)


def test_the_length_of_the_weights_is_that_of_all_trainable_ones():
    single = strategy("single")
    squares = [p.detach().double().square().sum() for p in single.objective.parameters() if p.requires_grad]
    assert single.weight_norm() == pytest.approx(math.sqrt(sum(squares)), rel=1e-6)
