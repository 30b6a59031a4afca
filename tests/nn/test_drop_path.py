"""Stochastic depth keyed by sample: equal paths in any batch, on any rank and after recomputation."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.drop_path import KeyedDropPath, key_drop_path_, keyed_drop_paths, replayed_drop_path
from rspretrain.rng import sample_seeds
from rspretrain.strategies.blocks import blocks_of, checkpoint_activations_

SEEDS = torch.from_numpy(sample_seeds(3, 0, np.arange(4000)))


def kept(drop: KeyedDropPath, rows: int) -> Tensor:
    """[rows] bool."""
    return drop(torch.ones(rows, 2, 1))[:, 0, 0] > 0


def keyed(seeds: Tensor = SEEDS, rate: float = 0.3, name: str = "here") -> KeyedDropPath:
    drop = KeyedDropPath(rate, True, name)
    drop.set_seeds(seeds)
    return drop


def test_rate_and_scale_equal_timm() -> None:
    out = keyed()(torch.ones(4000, 3))
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)  # 4 standard errors
    assert (out[:, :1] == out).all()
    assert (keyed().eval()(out) == out).all()
    assert (keyed(rate=0.0)(out) == out).all()


def test_draws_depend_on_sample_view_and_layer() -> None:
    drop = keyed()
    first, second = kept(drop, 4000), kept(drop, 4000)
    for other in (second, kept(keyed(name="there"), 4000), kept(keyed(SEEDS + 1), 4000)):
        assert (first == other).float().mean().item() == pytest.approx(0.7**2 + 0.3**2, abs=0.04)
    half = keyed(SEEDS[2000:])
    assert torch.equal(torch.cat([kept(half, 2000), kept(half, 2000)]), torch.cat([first[2000:], second[2000:]]))
    assert torch.equal(kept(keyed(), 8000), torch.cat([first, second]))  # two concatenated views


def test_without_seeds_it_equals_timm() -> None:
    drop, x = KeyedDropPath(0.5, True, "here"), torch.ones(64, 2)
    torch.manual_seed(0)
    ours = drop(x)
    torch.manual_seed(0)
    assert torch.equal(ours, x.new_empty(64, 1).bernoulli_(0.5).div_(0.5) * x)
    drop.set_seeds(SEEDS[:5])  # 64 is not a multiple of 5
    torch.manual_seed(0)
    assert torch.equal(drop(x), ours)


def test_recomputation_drops_the_same_paths() -> None:
    drop = keyed()
    kept(drop, 4000)
    states = [(drop, drop.state)]
    second, third = kept(drop, 4000), kept(drop, 4000)
    with replayed_drop_path(states):
        assert torch.equal(kept(drop, 4000), second)
    assert torch.equal(kept(drop, 4000), kept_after(3))
    assert not torch.equal(second, third)


def kept_after(views: int) -> Tensor:
    drop = keyed()
    for _ in range(views):
        kept(drop, 4000)
    return kept(drop, 4000)


def fix_norms_(backbone: nn.Module) -> None:
    """BatchNorm couples samples, and timm starts the last norm of a residual branch at 0, which hides the branch."""
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.eval().weight)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "test_resnet", "swin_tiny_patch4_window7_224", "convnext_atto"]
)
def test_halves_of_a_batch_equal_the_batch(name: str) -> None:
    """In timm's networks, also with activation checkpointing."""
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSettings(name=name, drop_path=0.7), "rgb", ("R", "G", "B"), 32)
    fix_norms_(backbone)
    key_drop_path_(backbone)
    drops, x = keyed_drop_paths(backbone), torch.randn(8, 3, 32, 32)
    assert len(drops) >= 3

    def features(rows: slice) -> Tensor:
        for drop in drops:
            drop.set_seeds(SEEDS[:8][rows])
        return torch.cat([backbone(x[rows]), backbone(x[rows].flip(3))])

    whole = features(slice(8))
    for start in (0, 4):
        half = features(slice(start, start + 4))
        torch.testing.assert_close(half, torch.cat([whole[start : start + 4], whole[8 + start : 12 + start]]))
    assert not torch.allclose(whole[:8], backbone.eval()(x))
    fix_norms_(backbone.train())
    plain = torch.autograd.grad(features(slice(8)).square().sum(), list(backbone.parameters()), allow_unused=True)
    for block in blocks_of(backbone):
        checkpoint_activations_(block)
    again = torch.autograd.grad(features(slice(8)).square().sum(), list(backbone.parameters()), allow_unused=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(plain, again, strict=True))
