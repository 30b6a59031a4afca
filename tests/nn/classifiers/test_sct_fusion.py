"""SCT Fusion: published parameter counts, equality with timm's ViT for one sensor and with the equations."""

from pathlib import Path

import pytest
import torch
from laws import check_classifier
from torch import nn

from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone, timm
from rspretrain.nn.classifiers.sct_fusion import SctFusion, SctSettings
from rspretrain.nn.weights import export_backbone, load_backbone
from rspretrain.transforms.normalise import Normalise

torch.set_num_threads(1)
S1 = ("VV", "VH")
S2 = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 8}


def vit(sensor: str, bands: tuple[str, ...], px: int = 120, **args: object) -> Backbone:
    return create_backbone(BackboneSettings(name="vit_sct", args=args), sensor, bands, px)


def small(seed: int = 0, **settings: object) -> SctFusion:
    """Two sensors with different patch size, heads and px."""
    torch.manual_seed(seed)
    s1 = vit("s1", S1, 16, **SMALL)
    s2 = vit("s2", S2, 24, **{**SMALL, "num_heads": 4, "patch_size": 6})
    return SctFusion(SctSettings(**settings), [s1, s2], 5)  # type: ignore[arg-type]


def images(num: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "s1": torch.randn(num, 2, 16, 16, generator=generator),
        "s2": torch.randn(num, 10, 24, 24, generator=generator),
    }


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_have_the_papers_sizes() -> None:
    s1, s2 = vit("s1", S1), vit("s2", S2)
    model = SctFusion(SctSettings(), [s1, s2], 19)
    assert count(model) == 14_417_683
    assert count(model.fusions) == 8 * 131_328 == 1_050_624
    assert count(s1) + count(model.head) == 6_455_827
    assert count(s2) + count(model.head) == 6_916_627
    shared = SctFusion(SctSettings(share_fusion=True), [s1, s2], 19)
    assert count(model) - count(shared) == 919_296
    heads = {block.attn.num_heads for block in model.backbones["s1"].model.blocks}
    assert heads == {8}
    assert model({"s1": torch.randn(1, 2, 120, 120), "s2": torch.randn(1, 10, 120, 120)}).shape == (1, 19)


def test_any_number_of_sensors_and_stacked_sensors() -> None:
    names = {"s1": S1, "s2": ("B02",), "rgb": ("R", "G", "B")}
    alone = [vit(sensor, bands, 16, **SMALL) for sensor, bands in names.items()]
    stacked = [vit("s1+s2", (*S1, "B02"), 16, **SMALL), alone[2]]
    x = {sensor: torch.randn(2, len(bands), 16, 16) for sensor, bands in names.items()}
    three, two = SctFusion(SctSettings(), alone, 5), SctFusion(SctSettings(), stacked, 5, names)
    assert [fusion.in_features for fusion in (three.fusions[0], two.fusions[0])] == [96, 64]
    assert three(x).shape == two(x).shape == (2, 5)
    assert three.bands == two.bands == names


@pytest.mark.parametrize("args", [{}, {"reg_tokens": 2, "no_embed_class": True}], ids=str)
def test_one_sensor_equals_timms_vit_bit_for_bit(args: dict[str, object]) -> None:
    backbone = vit("s2", S2, 60, **args)
    nn.init.normal_(backbone.model.norm.weight)  # type: ignore[union-attr, arg-type]
    nn.init.normal_(backbone.model.norm.bias)  # type: ignore[union-attr, arg-type]
    model = SctFusion(SctSettings(), [backbone], 19).eval()
    whole = timm.create_model(backbone.architecture, **{**backbone.model_args, "num_classes": 19}).eval()
    whole.load_state_dict(backbone.model.state_dict(), strict=False)
    whole.head.load_state_dict(model.head.state_dict())
    x = torch.randn(2, 10, 60, 60)
    assert torch.equal(model({"s2": x}), whole(x))


def test_equals_the_equations() -> None:
    model, given = small(fusion_init="default").eval(), images()
    vits = [model.backbones[name].model for name in ("s1", "s2")]
    z = []
    for one, x in zip(vits, given.values(), strict=True):
        patches = one.patch_embed.proj(x).flatten(2).transpose(1, 2)
        z.append(torch.cat([one.cls_token.expand(3, 1, 32), patches], dim=1) + one.pos_embed)
    for level in range(3):
        z = [one.blocks[level](tokens) for one, tokens in zip(vits, z, strict=True)]
        fusion = model.fusions[level]
        c = z[0][:, 0] @ fusion.weight[:, :32].T + z[1][:, 0] @ fusion.weight[:, 32:].T + fusion.bias
        for tokens in z:
            tokens[:, 0] = c
    torch.testing.assert_close(model(given), model.head(model.norm(c)), rtol=1e-4, atol=1e-5)


def test_fusion_is_initialised_to_the_mean_or_by_torch() -> None:
    fusion = small().fusions[1]
    tokens = torch.randn(2, 4, 32)
    torch.testing.assert_close(fusion(torch.cat(list(tokens), dim=1)), tokens.mean(dim=0))
    default = small(fusion_init="default").fusions[1]
    assert default.bias.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_shared_fusion_is_one_layer_used_after_every_block() -> None:
    model, calls = small(share_fusion=True), []
    model.fusions[0].register_forward_hook(lambda *_: calls.append(1))
    model(images())
    assert (len(model.fusions), len(calls)) == (1, 3)


def test_the_order_of_patches_does_not_matter() -> None:
    """If positions move along: attention is permutation-invariant, and only class tokens are exchanged."""
    model, given = small().eval(), images()
    expected = model(given)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    cut = given["s2"].unflatten(2, (4, 6)).unflatten(4, (4, 6)).permute(0, 1, 2, 4, 3, 5)  # [B C 4 4 6 6]
    moved = cut.flatten(2, 3)[:, :, order].unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(3, 10, 24, 24)
    only_pixels = model({**given, "s2": moved})
    pos = model.backbones["s2"].model.pos_embed
    with torch.no_grad():
        pos[:, 1:] = pos[:, 1:][:, order]
    torch.testing.assert_close(model({**given, "s2": moved}), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(only_pixels, expected, rtol=1e-4, atol=1e-5)


def test_a_missing_sensor_is_zeros() -> None:
    model, given = small().eval(), images()
    alone = model({"s2": given["s2"]})
    assert torch.equal(alone, model({"s2": given["s2"], "s1": torch.zeros(3, 2, 16, 16)}))
    assert alone.isfinite().all()
    assert not torch.allclose(alone, model(given))


def test_stochastic_depth_rises_linearly_and_is_drawn_per_sensor() -> None:
    torch.manual_seed(0)
    model = SctFusion(SctSettings(), [vit("s1", S1, 30, drop_path_rate=0.9), vit("s2", S2, 30)], 2)
    for backbone in model.backbones.values():
        rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in backbone.model.blocks]
        assert rates == pytest.approx([0.25 * block / 7 for block in range(8)])
    off = SctFusion(SctSettings(drop_path=0.0), [vit("s1", S1, 30)], 2)
    x = {"s1": torch.randn(2, 2, 30, 30)}
    assert torch.equal(off.train()(x), off.eval()(x))


def test_pretrained_backbones_are_loaded_and_not_changed(tmp_path: Path) -> None:
    made = vit("s1", S1, 16, **SMALL)
    nn.init.normal_(made.model.norm.weight)  # type: ignore[union-attr, arg-type]
    export_backbone(made, {"s1": Normalise("bigearthnet", S1, "db")}, tmp_path / "s1", {})
    loaded, _ = load_backbone(tmp_path / "s1", S1)
    other = vit("s2", S2, 16, **SMALL)
    model = SctFusion(SctSettings(), [loaded, other], 5)
    torch.testing.assert_close(model.norm.weight, (made.model.norm.weight + other.model.norm.weight) / 2)  # type: ignore
    for name, value in made.model.state_dict().items():
        if not name.startswith("norm."):
            assert torch.equal(model.backbones["s1"].model.state_dict()[name], value)
    x = torch.randn(2, 2, 16, 16)
    assert torch.equal(loaded.eval()(x), made.eval()(x))


def test_learns_16_samples() -> None:
    check_classifier(small, images)


def test_invalid_backbones_are_errors() -> None:
    s1, s2 = vit("s1", S1, 16, **SMALL), vit("s2", S2, 16, **{**SMALL, "depth": 2})
    with pytest.raises(
        ValueError,
        match=r"got ViTs of \(width, depth\) \{'s1': \(32, 3\), 's2': \(32, 2\)\}, expected equal .*: .* set the same",
    ):
        SctFusion(SctSettings(), [s1, s2], 5)
    resnet = create_backbone(BackboneSettings(name="test_resnet"), "s2", S2, 16)
    with pytest.raises(
        ValueError, match=r"got the backbone 'test_resnet' with .* for 's2', expected a plain .* Set back"
    ):
        SctFusion(SctSettings(), [s1, resnet], 5)
