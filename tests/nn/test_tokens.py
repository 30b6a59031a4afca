"""Tokens of timm's ViTs: bit-equal features, masked patches, features for probes, unsuitable backbones."""

import pytest
import torch

from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.ema import make_teacher
from rspretrain.nn.tokens import MaskedViT, TokenFeatures, default_features

torch.set_num_threads(1)
SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def make(name: str = "vit_tiny_patch16_224", **args: object) -> MaskedViT:
    torch.manual_seed(0)
    return MaskedViT(create_backbone(BackboneSettings(name=name, args={**SMALL, **args}), "rgb", ("R", "G", "B"), 32))


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"reg_tokens": 2, "no_embed_class": True},
        {"dynamic_img_size": True},
        {"pre_norm": True},
    ],
    ids=lambda args: ",".join(args),
)
def test_tokens_equal_timm(args: dict[str, object]) -> None:
    vit, x = make(**args), torch.randn(2, 3, 32, 32)
    cls, patches = vit(x)
    assert torch.equal(cls, vit.backbone(x))
    assert torch.equal(patches, vit.backbone.model.forward_features(x)[:, -16:])
    assert vit.grid == (4, 4)
    same = vit(x, torch.zeros(2, 16, dtype=torch.bool))
    assert torch.equal(same[0], cls)
    assert torch.equal(same[1], patches)


def test_masked_patches_do_not_reach_the_output_and_others_do() -> None:
    vit, x = make(), torch.randn(1, 3, 32, 32)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 6] = True  # row 1, column 2
    hidden, seen = x.clone(), x.clone()
    hidden[:, :, 8:16, 16:24] += 1
    seen[:, :, 8:16, 0:8] += 1
    cls, patches = vit(x, mask)
    assert torch.equal(vit(hidden, mask)[0], cls)
    assert torch.equal(vit(hidden, mask)[1], patches)
    assert not torch.equal(vit(seen, mask)[0], cls)
    vit.mask_token.data.fill_(1.0)
    assert not torch.equal(vit(x, mask)[0], cls)
    at = vit.embed(x, mask)[0, 1 + 6] - vit.backbone.model.pos_embed[0, 1 + 6]
    torch.testing.assert_close(at, torch.ones(24))


def test_the_mask_token_always_has_a_gradient() -> None:
    vit, x = make(), torch.randn(2, 3, 32, 32)
    for hidden in (False, True):
        vit.zero_grad()
        vit(x, torch.full((2, 16), hidden))[0][:, 0].sum().backward()
        assert bool(vit.mask_token.grad.any()) is hidden


def test_encoding_a_subset_of_tokens() -> None:
    vit, x = make(), torch.randn(2, 3, 32, 32)
    cls, patches = vit.encode(vit.embed(x)[:, [0, 3, 5]])
    assert (cls.shape, patches.shape) == ((2, 24), (2, 2, 24))
    kept = torch.tensor([[2, 4], [15, 0]])
    found = vit(x, kept=kept)
    torch.testing.assert_close((found[0][0], found[1][0]), (cls[0], patches[0]))
    torch.testing.assert_close(found[1][1], vit.encode(vit.embed(x)[1:, [0, 16, 1]])[1][0])


def test_without_mask_token_only_the_backbones_parameters_exist() -> None:
    teacher = make_teacher(make())
    teacher.mask_token = None
    assert all(name.startswith("backbone.model.") for name, _ in teacher.named_parameters())
    with pytest.raises(AssertionError, match="cannot mask patches"):
        teacher(torch.randn(1, 3, 32, 32), torch.ones(1, 16, dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("test_resnet", {}),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}),
        ("deit_tiny_distilled_patch16_224", {"depth": 1}),
    ],
)
def test_other_backbones_are_errors(name: str, args: dict[str, object]) -> None:
    backbone: Backbone = create_backbone(BackboneSettings(name=name, args=args), "rgb", ("R", "G", "B"), 32)
    with pytest.raises(
        ValueError, match=r"is not a plain ViT, expected .*class-token pooling.*Set backbone.name to vit_"
    ):
        MaskedViT(backbone)


def vit(depth=5):
    args = {"patch_size": 4, "embed_dim": 24, "depth": depth, "num_heads": 2}
    torch.manual_seed(0)
    return create_backbone(BackboneSettings(name="vit_tiny_patch16_224", args=args), "rgb", ("R", "G", "B"), 12).eval()


def test_features_are_the_normalised_class_tokens_of_the_last_four_blocks():
    backbone, x, after = vit(), torch.randn(2, 3, 12, 12), []
    for block in backbone.model.blocks:
        block.register_forward_hook(lambda module, given, tokens: after.append(tokens))
    features = TokenFeatures(backbone, "cls4")
    found = features(x)
    assert found.shape == (2, features.num_features) == (2, 96)
    expected = torch.cat([backbone.model.norm(tokens)[:, 0] for tokens in after[1:5]], dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(found[:, 72:], backbone(x))  # the last is the backbone's own feature


def test_features_of_large_vits_are_class_token_and_mean_patch():
    backbone, x = vit(), torch.randn(2, 3, 12, 12)
    features = TokenFeatures(backbone, "cls_patches")
    cls, patches = MaskedViT(backbone)(x)
    torch.testing.assert_close(features(x), torch.cat([cls, patches.mean(dim=1)], dim=1), rtol=0, atol=1e-6)
    assert features.num_features == 48


def test_default_features_follow_ibot():
    assert default_features(vit()) == "cls4"
    wide = create_backbone(BackboneSettings(name="vit_base_patch16_224", args={"depth": 1}), "rgb", ("R",), 32)
    assert default_features(wide) == "cls_patches"


def test_too_few_blocks_are_an_error():
    with pytest.raises(ValueError, match=r"has 3 blocks, expected at least four for the features cls4. Use cls_patch"):
        TokenFeatures(vit(depth=3), "cls4")
