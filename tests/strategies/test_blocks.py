from collections import Counter

import pytest
import torch
from torch import nn

from rspretrain.nn.backbones import BackboneSettings, create_backbone, timm
from rspretrain.strategies import resolve_strategy
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.blocks import blocks_of, checkpoint_activations_, require_blocks
from rspretrain.strategies.optim import OptimSettings
from strategies.toys import Contrast, this_world


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    [
        ("vit_tiny_patch16_224", {"Block": 12}),
        ("resnet18", {"BasicBlock": 8}),
        ("convnext_atto", {"ConvNeXtBlock": 12}),
        ("swin_tiny_patch4_window7_224", {"SwinTransformerBlock": 12}),
        ("efficientnet_lite0", {"DepthwiseSeparableConv": 1, "InvertedResidual": 15}),
        ("densenet121", {}),
    ],
)
def test_blocks_of_timm(architecture, blocks):
    with torch.device("meta"):
        model = timm.create_model(architecture)
    assert Counter(type(block).__name__ for block in blocks_of(model)) == blocks


def test_blocks_of_students_teachers_and_frozen_parts():
    toy = Contrast()
    assert blocks_of(toy) == [*toy.body.blocks, *toy.teacher.blocks, *toy.frozen["blocks"]]


def test_no_blocks():
    with pytest.raises(
        ValueError, match="strategy.compile: got true for a network without.*Set strategy.compile=false"
    ):
        require_blocks(nn.Sequential(nn.Linear(2, 2)), "compile")


def gradients(recomputed):
    """Gradients of a small ResNet with drop path, its running statistics, and how often each block ran."""
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSettings(name="test_resnet", drop_path=0.5), "rgb", ("R", "G", "B"), 32)
    runs = Counter()
    for block in blocks_of(backbone):
        block.bn1.register_forward_hook(lambda module, *_: runs.update([module]))
        if recomputed:
            checkpoint_activations_(block)
    backbone(torch.randn(4, 3, 32, 32)).square().sum().backward()
    with torch.no_grad():
        backbone(torch.randn(4, 3, 32, 32))
    return [one.grad for one in backbone.parameters()], list(backbone.buffers()), set(runs.values())


def test_recomputation_draws_the_same_numbers_and_keeps_statistics():
    plain, recomputed = gradients(False), gradients(True)
    assert all(map(torch.equal, plain[0], recomputed[0]))
    assert all(map(torch.equal, plain[1], recomputed[1]))
    assert (plain[2], recomputed[2]) == ({2}, {3})  # a step with a backward and one without


@pytest.mark.slow
def test_compiled_and_checkpointed_blocks_are_equal_with_fsdp(found):
    for rank in found:
        losses, graphs, breaks = rank["options"]["compiled"]
        assert losses == pytest.approx(rank["fsdp0"]["losses"][:3], rel=1e-5)
        assert graphs >= 2  # student and teacher were compiled
        assert not breaks


def test_compiling_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="got true without no-such-compiler.*Install no-such-compiler, or"):
        resolve_strategy(StrategySettings(compile=True), this_world(), OptimSettings(), deepspeed_launcher=False)
