"""A sample drops the same paths whoever computes it, beside whom, and how often."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.drop_path import KeyedDropPath, drawn_again, key_drops_, keyed_drops
from rspretrain.rng import sample_seeds
from rspretrain.strategies.blocks import blocks_of, checkpoint_activations_

SEEDS = torch.from_numpy(sample_seeds(3, 0, np.arange(4000)))


def kept(drop: KeyedDropPath, rows: int) -> Tensor:
    """[rows] bool."""
    return drop(torch.ones(rows, 2, 1))[:, 0, 0] > 0


def begun(seeds: Tensor = SEEDS, rate: float = 0.3, name: str = "here") -> KeyedDropPath:
    drop = KeyedDropPath(rate, True, name)
    drop.begin(seeds)
    return drop


def test_rate_and_scale_are_timms() -> None:
    out = begun()(torch.ones(4000, 3))
    assert out.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)  # 4 standard errors
    assert (out[:, :1] == out).all()
    assert (begun().eval()(out) == out).all()
    assert (begun(rate=0.0)(out) == out).all()


def test_draws_are_of_the_sample_the_view_and_the_place() -> None:
    drop = begun()
    first, second = kept(drop, 4000), kept(drop, 4000)
    for other in (second, kept(begun(name="there"), 4000), kept(begun(SEEDS + 1), 4000)):
        assert (first == other).float().mean().item() == pytest.approx(0.7**2 + 0.3**2, abs=0.04)
    half = begun(SEEDS[2000:])
    assert torch.equal(torch.cat([kept(half, 2000), kept(half, 2000)]), torch.cat([first[2000:], second[2000:]]))
    assert torch.equal(kept(begun(), 8000), torch.cat([first, second]))  # two views, one behind the other


def test_without_seeds_it_is_timms() -> None:
    drop, x = KeyedDropPath(0.5, True, "here"), torch.ones(64, 2)
    torch.manual_seed(0)
    ours = drop(x)
    torch.manual_seed(0)
    assert torch.equal(ours, x.new_empty(64, 1).bernoulli_(0.5).div_(0.5) * x)
    drop.begin(SEEDS[:5])  # of which 64 is no multiple
    torch.manual_seed(0)
    assert torch.equal(drop(x), ours)


def test_what_is_computed_again_drops_the_same() -> None:
    drop = begun()
    kept(drop, 4000)
    states = [(drop, drop.state)]
    second, third = kept(drop, 4000), kept(drop, 4000)
    with drawn_again(states):
        assert torch.equal(kept(drop, 4000), second)
    assert torch.equal(kept(drop, 4000), kept_after(3))
    assert not torch.equal(second, third)


def kept_after(views: int) -> Tensor:
    drop = begun()
    for _ in range(views):
        kept(drop, 4000)
    return kept(drop, 4000)


def fix_norms_(backbone: nn.Module) -> None:
    """Norms of batches would couple samples, and hide the last one of a residual path, whose weights start at 0."""
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.eval().weight)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "test_resnet", "swin_tiny_patch4_window7_224", "convnext_atto"]
)
def test_halves_of_a_batch_are_the_batch(name: str) -> None:
    """Whole networks of timm; recomputed, too."""
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSettings(name=name, drop_path=0.7), "rgb", ("R", "G", "B"), 32)
    fix_norms_(backbone)
    key_drops_(backbone)
    drops, x = keyed_drops(backbone), torch.randn(8, 3, 32, 32)
    assert len(drops) >= 3

    def features(rows: slice) -> Tensor:
        for drop in drops:
            drop.begin(SEEDS[:8][rows])
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
