"""LoRA adapters: adapted layers, parameter counts, merging, errors."""

import re
import sys

import pytest
import torch
from torch import nn

from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.lora import adapted_layers, add_adapters_, merge_adapters_

torch.set_num_threads(1)
BANDS = ("B04", "B03", "B02")
SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8}


def vit() -> Backbone:
    return create_backbone(BackboneSettings(name="vit_sct", args=SMALL), "s2", BANDS, 16)


def resnet(name: str = "test_resnet") -> Backbone:
    return create_backbone(BackboneSettings(name=name), "s2", BANDS, 32)


def num_adapters(backbone: Backbone) -> int:
    return sum(p.numel() for name, p in backbone.named_parameters() if ".lora_" in name)


def test_vits_get_adapters_in_attention() -> None:
    backbone = vit()
    assert adapted_layers(backbone) == [f"blocks.{block}.attn.{name}" for block in range(3) for name in ("qkv", "proj")]
    add_adapters_(backbone, rank=4, alpha=8.0)
    assert num_adapters(backbone) == 3 * 4 * ((32 + 96) + (32 + 32))  # A [r in] and B [out r]
    assert num_adapters(backbone) == sum(p.numel() for p in backbone.parameters() if p.requires_grad)


def test_cnns_get_adapters_in_convolutions() -> None:
    backbone = resnet()
    convs = [part for part in backbone.modules() if isinstance(part, nn.Conv2d)]
    expected = sum(4 * (conv.weight[0].numel() + conv.out_channels) for conv in convs)
    assert len(adapted_layers(backbone)) == len(convs) > 8
    add_adapters_(backbone, rank=4, alpha=8.0)
    assert num_adapters(backbone) == expected


def test_grouped_convolutions_are_skipped() -> None:
    backbone = resnet("test_efficientnet")
    convs = {name: part for name, part in backbone.model.named_modules() if isinstance(part, nn.Conv2d)}
    names = adapted_layers(backbone)
    assert names == [name for name, conv in convs.items() if conv.groups == 1]
    assert 0 < len(names) < len(convs)


def test_targets_are_name_endings() -> None:
    backbone = vit()
    assert adapted_layers(backbone, ("mlp.fc1",)) == [f"blocks.{block}.mlp.fc1" for block in range(3)]
    assert adapted_layers(backbone, ("1.attn.qkv", "patch_embed.proj")) == ["patch_embed.proj", "blocks.1.attn.qkv"]
    assert "patch_embed.proj" in adapted_layers(backbone, ("proj",))
    with pytest.raises(
        ValueError,
        match=re.escape(
            "tune.lora_targets: got ['c1', 'keys'], which match no layer of 'vit_base_patch16_224', expected name "
            "endings of its Linear layers and ungrouped convolutions. Set tune.lora_targets to some of "
            "['fc1', 'fc2', 'proj', 'qkv']."
        ),
    ):
        adapted_layers(backbone, ("c1", "qkv", "keys"))


@torch.no_grad()
def test_the_output_equals_the_papers_equation() -> None:
    """Eq. 3: W x + b + (alpha / r) B A x; also for convolutions and after merging."""
    torch.manual_seed(0)
    for backbone, name, x in ((vit(), "blocks.0.attn.qkv", torch.randn(2, 5, 32)), (resnet(), "layer1.0.conv1", None)):
        plain = backbone.model.get_submodule(name)
        x = torch.randn(2, plain.in_channels, 8, 8) if x is None else x  # type: ignore[arg-type]
        add_adapters_(backbone, rank=4, alpha=8.0)
        adapted = backbone.model.get_submodule(name)
        first, second = adapted.lora_A["default"], adapted.lora_B["default"]  # type: ignore[index]
        second.weight.normal_()  # type: ignore[operator, union-attr]
        expected = plain(x) + 2.0 * second(first(x))  # type: ignore[operator]
        torch.testing.assert_close(adapted(x), expected)
        merge_adapters_(backbone)
        assert backbone.model.get_submodule(name) is plain
        torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-4)


def test_adapter_dropout_is_active_in_training_only() -> None:
    backbone = vit()
    add_adapters_(backbone, rank=4, alpha=8.0, dropout=0.5)
    for name, parameter in backbone.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(backbone.train()(x), backbone(x))
    assert torch.equal(backbone.eval()(x), backbone(x))


def test_missing_peft_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    merge_adapters_(vit())  # needs no peft without adapters
    with pytest.raises(
        ValueError, match=r"tune.mode=lora: peft does not import \(.*\), expected peft >= 0.21. Run pip"
    ) as info:
        add_adapters_(vit(), rank=4, alpha=8.0)
    assert "Run pip install 'rspretrain[lora]', or set tune.mode to partial or full." in str(info.value)
