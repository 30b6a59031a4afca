import math

import pytest
import torch

from rspretrain.nn.ema import ema_update_, paired_parameters
from rspretrain.strategies import build_strategy
from rspretrain.strategies.base import StrategySettings, propagate_nonfinite
from rspretrain.strategies.optim import OptimSettings, lr_scales
from strategies.toys import MOMENTUM, Contrast, samples, strategy, take, tensors, this_world


def test_a_finite_loss_keeps_its_gradient():
    x = torch.tensor(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(propagate_nonfinite(x * 2), x)
    assert gradient == 2.0


def test_an_infinite_loss_makes_the_gradient_nan():
    x = torch.tensor(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(propagate_nonfinite(x * 2 + torch.inf), x)
    assert gradient.isnan()


def test_a_refused_step_updates_neither_weights_nor_norm_statistics():
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


def test_clipping_by_the_total_norm():
    free, clipped = (strategy("single", optimizer="sgd", clip_norm=norm, weight_decay=0.0) for norm in (None, 0.01))
    start = tensors(free)[0]["body.head.1.weight"]
    moved = []
    for one in (free, clipped):
        norm = one.train_step(samples(0), 1.0, MOMENTUM).grad_norm
        moved.append((tensors(one)[0]["body.head.1.weight"] - start) / (1.0 if one is free else 0.01 / norm))
    assert moved[1] == pytest.approx(moved[0], rel=1e-3, abs=1e-5)


def test_weights_of_another_objective_are_refused():
    single = strategy("single")
    weights, state = tensors(single)
    with pytest.raises(ValueError, match=r"0 tensors are missing \[\], 1 are unknown \['x'\]. Load weights that"):
        single.load(weights | {"x": weights["body.token"]}, state, 0)
    with pytest.raises(ValueError, match=r"body.token has shape \[1\], expected \[16\]. Load weights that this"):
        single.load(weights | {"body.token": weights["body.token"][:1]}, state, 0)


def test_clipping_per_tensor_uses_each_tensors_norm():
    free = strategy("single", optimizer="sgd", clip_norm=None, weight_decay=0.0)
    clipped = strategy("single", optimizer="sgd", clip_norm=2.0, clip="per_tensor", weight_decay=0.0)
    start = tensors(free)[0]
    norms = [one.train_step(samples(0), 1.0, MOMENTUM).grad_norm for one in (free, clipped)]
    assert norms[0] == norms[1]  # the reported norm is that before clipping
    lengths, scales = [], lr_scales(free.objective)
    for name, parameter in free.trainable():
        steps = [(tensors(one)[0][name] - start[name]) / scales.get(parameter, 1.0) for one in (free, clipped)]
        lengths.append(steps[0].norm().item())
        expected = steps[0] * min(1.0, 2.0 / lengths[-1])
        torch.testing.assert_close(steps[1], expected, rtol=1e-4, atol=1e-6, msg=name)
    assert min(lengths) < 2.0 < max(lengths)  # some are clipped, some are not


def test_weight_norm_is_that_of_all_trainable_parameters():
    single = strategy("single")
    squares = [p.detach().double().square().sum() for p in single.objective.parameters() if p.requires_grad]
    assert single.weight_norm() == pytest.approx(math.sqrt(sum(squares)), rel=1e-6)


def pairs(weights):
    """Names of the toy's teacher parameters and of their student parameters."""
    return [(name, name.replace("teacher.", "body.")) for name in weights if name.startswith("teacher.")]


def test_teachers_are_moving_averages_of_students():
    single = strategy("single")
    before = tensors(single)[0]
    single.train_step(samples(0), 1e-3, 0.75)
    after = tensors(single)[0]
    assert len(pairs(before)) == len(list(single.objective.teacher.parameters()))
    for teacher, student in pairs(before):
        torch.testing.assert_close(after[teacher], 0.75 * before[teacher] + 0.25 * after[student], rtol=1e-6, atol=1e-7)
        assert not torch.equal(after[teacher], before[teacher])


@pytest.mark.parametrize(("optimizer", "reference"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_scaled_rates_equal_manual_parameter_groups(optimizer, reference):
    single = strategy("single", optimizer=optimizer, clip_norm=None, weight_decay=0.05)
    toy = strategy("single", clip_norm=None).objective
    exempt = {"body.token", "sharpness"}
    scales = {"sharpness": 3.0, "body.blocks.0.gamma": 0.5 * 0.5, "body.blocks.1.gamma": 0.5 * 0.7, "body.token": 1.0}
    for index, name in enumerate(dict(toy.body.named_parameters())):
        scales.setdefault(f"body.{name}", 1 - 0.1 * (index % 7))
    groups = [
        {
            "params": [parameter],
            "lr": 1e-3 * scales.get(name, 1.0),
            "weight_decay": 0.05 if parameter.ndim > 1 and name not in exempt else 0.0,
        }
        for name, parameter in toy.named_parameters()
        if parameter.requires_grad
    ]
    manual = reference(groups, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    pair = paired_parameters(toy.teachers())
    for step in range(4):
        manual.zero_grad()
        toy(samples(step)).loss.backward()
        manual.step()
        ema_update_([one for _, one in pair], [one for one, _ in pair], MOMENTUM)
        single.train_step(samples(step), 1e-3, MOMENTUM)
    for name, value in toy.state_dict().items():
        torch.testing.assert_close(single.objective.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)


def test_weight_decay_of_a_step_overrides_the_settings():
    found = []
    for own, given in ((0.5, None), (0.0, 0.5), (0.5, 0.0), (0.0, None)):
        one = strategy("single", optimizer="sgd", weight_decay=own)
        one.train_step(samples(0), 0.1, MOMENTUM, given)
        found.append(tensors(one)[0])
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())
    assert all(torch.equal(found[2][name], value) for name, value in found[3].items())
    changed = {name for name, value in found[0].items() if not torch.equal(found[2][name], value)}
    assert "body.head.1.weight" in changed
    assert not any(name.endswith("bias") and name.startswith("body") for name in changed)


def test_teacher_drift_is_relative_to_the_student():
    single = strategy("single")
    assert single.teacher_drift() == 0.0
    take(single, range(3))
    weights = tensors(single)[0]
    teacher, student = (
        torch.cat([weights[n].flatten() for n in names]).double() for names in zip(*pairs(weights), strict=True)
    )
    assert single.teacher_drift() == pytest.approx(((teacher - student).norm() / student.norm()).item(), rel=1e-6)


def test_momentum_is_given_exactly_with_teachers():
    with pytest.raises(AssertionError, match="momentum=None with 1 teachers"):
        strategy("single").train_step(samples(0), 1e-3)
    toy = Contrast()
    plain = build_strategy(StrategySettings(name="single", precision="fp32"), this_world(), toy, OptimSettings())
    assert plain.teacher_drift() is None
    before = [parameter.clone() for parameter in toy.teacher.parameters()]
    plain.train_step(samples(0), 1e-3)
    assert all(map(torch.equal, before, toy.teacher.parameters()))
