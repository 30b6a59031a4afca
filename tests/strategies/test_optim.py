import pytest
import torch
from gloo import run_ranks
from lightly.utils.lars import LARS
from pydantic import ValidationError
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.strategies.optim import (
    Lars,
    OptimSettings,
    build_optimizer,
    clip_each_,
    lr_scales,
    parameter_groups,
)


def slow_lars(w, gradients, *, lr, momentum, decay, trust):
    """The equations in docs/methods.md, LARS, in float64."""
    w, velocity = w.double(), torch.zeros_like(w).double()
    for gradient in gradients:
        g = gradient.double() + decay * w
        if w.norm() > 0 and g.norm() > 0:
            g = g * trust * w.norm() / g.norm()
        velocity = momentum * velocity + g
        w = w - lr * velocity
    return w


def run(optimizer, weight, gradients):
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_lars_equals_its_formula(start):
    gradients = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(torch.full((4, 3), start))
    expected = slow_lars(weight.detach(), gradients, lr=0.2, momentum=0.9, decay=1e-2, trust=1e-3)
    optimizer = Lars([weight], 0.2, weight_decay=1e-2)
    torch.testing.assert_close(run(optimizer, weight, gradients).double(), expected, rtol=1e-5, atol=1e-8)


def test_lars_equals_lightly_with_negligible_decay():
    # lightly's ratio uses |g| + decay * |w| instead of |g + decay * w|, and does not adapt if the decay is 0.
    gradients = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 3))
    expected = run(LARS([theirs], 0.2, momentum=0.9, weight_decay=1e-12), theirs, gradients)
    torch.testing.assert_close(run(Lars([ours], 0.2), ours, gradients), expected, rtol=1e-5, atol=1e-8)


def test_lars_leaves_exempt_groups_unscaled():
    gradient = torch.tensor([0.5, -1.0])
    bias = nn.Parameter(torch.ones(2))
    assert run(Lars([{"params": [bias], "adapt": False}], 0.1), bias, [gradient]) == pytest.approx(1 - 0.1 * gradient)


def slow_adam(w, gradients, *, lr, betas, eps, decay):
    """Kingma and Ba 2015, algorithm 1, with L2 regularisation, in float64."""
    w = w.double()
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for step, gradient in enumerate(gradients, 1):
        g = gradient.double() + decay * w
        first, second = betas[0] * first + (1 - betas[0]) * g, betas[1] * second + (1 - betas[1]) * g.square()
        w = w - lr * first / (1 - betas[0] ** step) / ((second / (1 - betas[1] ** step)).sqrt() + eps)
    return w


def test_adam_adds_the_decay_to_the_gradient_and_adamw_decouples_it():
    gradients = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    own = {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}
    moved = {}
    for name in ("adam", "adamw"):
        layer = nn.Linear(3, 4, bias=False)
        nn.init.ones_(layer.weight)
        moved[name] = run(
            build_optimizer(OptimSettings(name=name, weight_decay=0.3, **own), layer), layer.weight, gradients
        )
    expected = slow_adam(torch.ones(4, 3), gradients, decay=0.3, **own)
    torch.testing.assert_close(moved["adam"].double(), expected, rtol=1e-5, atol=1e-7)
    reference = nn.Parameter(torch.ones(4, 3))
    torch.testing.assert_close(
        moved["adam"], run(torch.optim.Adam([reference], weight_decay=0.3, **own), reference, gradients)
    )
    assert not torch.allclose(moved["adamw"], moved["adam"], rtol=1e-2)


class Scaled(nn.Module):
    def __init__(self, **factors):
        super().__init__()
        self.factors = factors
        self.inner, self.outer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2)

    def lr_scales(self):
        return {name.replace("_", "."): factor for name, factor in self.factors.items()}


def test_one_group_for_every_decay_and_scale():
    model = Scaled(inner_0_weight=0.5, inner_1_weight=0.5, inner_1_bias=0.5)
    model.outer.weight.requires_grad_(False)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [
        (group["weight_decay"], group["lr_scale"], [names[one] for one in group["params"]])
        for group in build_optimizer(OptimSettings(weight_decay=0.1), model).param_groups
    ]
    assert found == [
        (0.1, 0.5, ["inner.0.weight", "inner.1.weight"]),
        (0.0, 1.0, ["inner.0.bias", "outer.bias"]),
        (0.0, 0.5, ["inner.1.bias"]),
    ]


def test_scales_of_nested_modules_multiply():
    whole = nn.ModuleDict({"part": Scaled(inner_0_weight=0.5, outer_weight=0.25)})
    whole.lr_scales = lambda: {"part.outer.weight": 0.1, "part.inner.1.bias": 2.0}
    part = whole["part"]
    assert lr_scales(whole) == {part.inner[0].weight: 0.5, part.outer.weight: 0.025, part.inner[1].bias: 2.0}
    part.inner[1].weight = part.outer.weight  # tied: has two names
    part.factors = {"inner_1_weight": 0.5}
    assert lr_scales(whole)[part.outer.weight] == 0.05


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_scales_are_positive(factor):
    whole = nn.ModuleDict({"part": Scaled(inner_0_weight=factor)})
    with pytest.raises(
        ValueError, match=r"rate of part.inner.0.weight is scaled by .*, expected a factor above 0. Freeze"
    ):
        parameter_groups(whole, 0.1)


def test_scales_of_unknown_parameters():
    with pytest.raises(AssertionError, match=r"part: no parameters \['inner.7.weight'\]"):
        lr_scales(nn.ModuleDict({"part": Scaled(inner_7_weight=0.5)}))


def test_no_decay_for_biases_norms_and_timms_exemptions():
    model = nn.ModuleDict(
        {"vit": create_backbone(BackboneSettings(name="vit_tiny_patch16_224"), "rgb", ("R", "G", "B"), 32)}
    )
    model["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    decay, rest = parameter_groups(model, 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    exempt = {names[id(parameter)] for parameter in rest["params"]}
    assert {
        "vit.model.pos_embed",
        "vit.model.cls_token",
        "vit.model.norm.weight",
        "vit.model.blocks.0.attn.qkv.bias",
    } <= exempt
    assert all(parameter.ndim > 1 for parameter in decay["params"])
    assert (decay["weight_decay"], rest["weight_decay"], rest["adapt"]) == (0.05, 0.0, False)
    assert (decay["decays"], rest["decays"]) == (True, False)
    assert len(decay["params"]) + len(rest["params"]) == len(names) - 2


def test_rates_scale_with_the_global_batch():
    settings = OptimSettings(lr=1e-3, final_lr=1e-5, lr_reference_batch=256)
    assert (settings.peak_lr(512), settings.end_lr(128)) == (2e-3, 5e-6)
    assert settings.model_copy(update={"lr_reference_batch": None}).peak_lr(512) == 1e-3


@pytest.mark.parametrize("name", ["adam", "adamw", "lars", "sgd"])
def test_every_name_builds(name):
    assert build_optimizer(OptimSettings(name=name), nn.Linear(2, 2)).param_groups[0]["lr"] == 5e-4


def gradients():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in ((6, 4), (5,), (1, 3))]


def clip_shards():
    mesh = init_device_mesh("cpu", (2,))
    shards = [distribute_tensor(gradient, mesh, [Shard(0)], src_data_rank=None) for gradient in gradients()]
    clip_each_(shards, 2.0)
    return [shard.full_tensor() for shard in shards]


def test_shards_are_clipped_like_whole_tensors():
    whole = gradients()
    clip_each_(whole, 2.0)
    kept = [torch.equal(after, before) for after, before in zip(whole, gradients(), strict=True)]
    assert True in kept
    assert False in kept
    for parts in run_ranks(2, clip_shards):
        torch.testing.assert_close(parts, whole)


def test_per_tensor_needs_a_norm():
    with pytest.raises(ValidationError, match=r"got per_tensor without optim.clip_norm, expected.*iBOT: 3.0"):
        OptimSettings(clip="per_tensor")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"schedule": "constant", "final_lr": 1e-6},
            r"final_lr: got 1e-06 with .*constant, .*Set optim.schedule=cosine",
        ),
        ({"schedule": "step", "step_epochs": [80], "final_lr": 1e-6}, r"final_lr: got 1e-06 with optim.schedule=step"),
        ({"schedule": "step"}, r"got none with optim.schedule=step, expected the epochs .*Set them"),
        (
            {"step_epochs": [80]},
            r"got \[80.0\], .*with optim.schedule=cosine, which has no steps. Set optim.schedule=step",
        ),
        ({"schedule": "constant", "step_factor": 0.5}, r"step_factor 0.5, with optim.schedule=constant, which has no"),
        ({"schedule": "step", "step_epochs": [80, 60]}, r"got \[80.0, 60.0\] after .*expected ascending .*Sort them"),
        ({"schedule": "step", "step_epochs": [80, 80]}, r"got \[80.0, 80.0\] after .*expected ascending"),
        ({"schedule": "step", "step_epochs": [5]}, r"got \[5.0\] after a warm-up of 10 epochs, expected .*shorten"),
    ],
)
def test_inconsistent_schedules(given, message):
    with pytest.raises(ValidationError, match=message):
        OptimSettings(**given)


def test_consistent_schedules():
    assert OptimSettings(schedule="step", step_epochs=[80, 90.5], warmup_epochs=0).step_epochs == (80, 90.5)
    assert OptimSettings(schedule="constant", step_factor=0.1, final_lr=0.0).schedule == "constant"  # a saved config
