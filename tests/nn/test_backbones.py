"""Backbones: any number of bands, published parameter counts, layer ids, and errors with the nearest names."""

import re

import pytest
import torch

from rspretrain.nn.backbones import (
    Backbone,
    BackboneSettings,
    create_backbone,
    frozen_modules,
    layer_ids,
    timm,
    with_drop_path,
)

torch.set_num_threads(1)


def make(name: str, bands: int = 4, px: int = 32, **options: object) -> Backbone:
    names = tuple(f"B{band:02}" for band in range(bands))
    return create_backbone(BackboneSettings(name=name, **options), "s2", names, px)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "px", "width"),
    [
        ("resnet18", 32, 512),
        ("vit_small_patch16_224", 48, 384),
        ("vit_sct", 45, 256),
        ("mobilenetv3_small_100", 32, 1024),
    ],
)
def test_pooled_features_of_any_number_of_bands(name: str, px: int, width: int) -> None:
    backbone = make(name, bands=7, px=px).eval()
    assert backbone(torch.randn(2, 7, px, px)).shape == (2, width)
    assert backbone.num_features == width
    assert (backbone.sensor, len(backbone.bands), backbone.px) == ("s2", 7, px)


def test_small_vit_has_the_published_parameter_count() -> None:
    backbone = make("vit_sct", bands=10, px=120)
    head = 256 * 19 + 19
    assert sum(p.numel() for p in backbone.parameters()) + head == 6_916_627
    assert backbone.architecture == "vit_base_patch16_224"


def test_seed_decides_the_initialisation() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in make("resnet18").parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_drop_path_rises_linearly_to_its_setting() -> None:
    blocks = make("vit_sct", px=30, drop_path=0.25).model.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.25 * block / 7 for block in range(8)])


def test_with_drop_path_copies_the_weights() -> None:
    torch.manual_seed(0)
    backbone = make("vit_sct", px=30).train()  # not a ResNet, whose residual branches start at 0
    copy, x = with_drop_path(backbone, 0.9), torch.randn(8, 4, 30, 30)
    assert copy.training
    assert copy.model_args["drop_path_rate"] == 0.9
    assert "drop_path_rate" not in backbone.model_args
    assert torch.equal(copy.eval()(x), backbone.eval()(x))
    assert not torch.allclose(copy.train()(x), backbone.train()(x), atol=0.1)
    with torch.no_grad():
        next(copy.parameters()).zero_()
    assert next(backbone.parameters()).any()


def test_channels_last_in_training_changes_rounding_only() -> None:
    backbone = make("resnet18").train()
    x = torch.randn(4, 4, 32, 32)
    torch.testing.assert_close(backbone(x), backbone.model(x), rtol=1e-4, atol=1e-4)


def test_evaluation_equals_timm_bit_for_bit() -> None:
    backbone = make("resnet18").eval()
    plain = timm.create_model(backbone.architecture, **backbone.model_args).eval()
    plain.load_state_dict(backbone.model.state_dict())
    x = torch.randn(2, 4, 32, 32)
    assert torch.equal(backbone(x), plain(x))


def test_unknown_architecture_lists_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Unknown backbone 'resnet81': expected `vit_sct` or .* Nearest: .*resnet18"):
        make("resnet81")


def test_px_must_be_a_multiple_of_the_patch_size() -> None:
    with pytest.raises(
        ValueError,
        match="'vit_sct' has patches of 15 pixels, but px=64 is not a multiple of 15. Set .* 60 or 75",
    ):
        make("vit_sct", px=64)
    with pytest.raises(ValueError, match="patches of 16 pixels, but px=100 is not a multiple of 16"):
        make("vit_small_patch16_224", px=100)


@pytest.mark.parametrize(
    ("name", "depth", "stem", "last", "follows"),
    [
        ("test_vit", 6, {"cls_token", "pos_embed", "patch_embed"}, {"blocks"}, {"norm"}),
        ("test_resnet", 4, {"conv1", "bn1"}, {"layer4"}, set()),
        ("densenet121", 4, {"features.conv0", "features.norm0"}, {"features.denseblock4"}, {"features.norm5"}),
        ("swin_tiny_patch4_window7_224", 4, {"patch_embed"}, {"layers"}, {"norm"}),
        ("test_convnext", 4, {"stem"}, {"stages"}, {"head"}),
        ("test_efficientnet", 5, {"conv_stem", "bn1"}, {"blocks"}, {"conv_head", "bn2"}),
    ],
)
def test_layer_ids(name: str, depth: int, stem: set[str], last: set[str], follows: set[str]) -> None:
    with torch.device("meta"):
        backbone = Backbone("s2", ("B04", "B03", "B02"), 224, name, {"in_chans": 3, "num_classes": 0})
    layers, found = layer_ids(backbone)
    assert found == depth
    assert layers.keys() == dict(backbone.model.named_parameters()).keys()

    def parts(layer: int) -> set[str]:
        names = [name.removeprefix("features.").split(".")[0] for name, one in layers.items() if one == layer]
        return {f"features.{part}" if name == "densenet121" else part for part in names}

    assert (parts(0), parts(depth), parts(depth + 1)) == (stem, last, follows)
    assert set(layers.values()) - {depth + 1} == set(range(depth + 1))


def test_layer_ids_without_groups_in_timm() -> None:
    with torch.device("meta"):
        backbone = Backbone("s2", ("B04", "B03", "B02"), 64, "poolformer_s12", {"in_chans": 3, "num_classes": 0})
    with pytest.raises(
        ValueError,
        match=re.escape(
            "Backbone 'poolformer_s12' has no layer groups in timm, expected a network with blocks or stages. "
            "Set tune.mode to linear or lora, or to full with tune.layer_decay=1.0."
        ),
    ):
        layer_ids(backbone)


def test_frozen_modules() -> None:
    backbone = make("test_vit")
    names = {id(part): name for name, part in backbone.named_modules()}

    def frozen() -> set[str]:
        return {names[id(part)] for part in frozen_modules(backbone)}

    assert not frozen()
    backbone.model.patch_embed.requires_grad_(False)
    assert frozen() == {
        "model.patch_embed",
        "model.patch_embed.proj",
        "model.pos_drop",
        "model.patch_drop",
        "model.norm_pre",
    }
    backbone.requires_grad_(False)
    assert {"", "model", "model.norm"} < frozen()
