"""MAE decoder: equality with lightly, position embeddings, patches."""

import math

import pytest
import torch

from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.decoder import PatchDecoder, fix_positions_, patchify, sine_positions
from rspretrain.nn.tokens import MaskedViT

torch.set_num_threads(1)


def test_outputs_equal_lightly() -> None:
    from lightly.models.modules import MaskedVisionTransformerDecoderTIMM
    from lightly.models.utils import repeat_token, set_at_index

    torch.manual_seed(0)
    ours = PatchDecoder(dim=24, grid=(3, 3), outputs=48, width=32, depth=2, heads=4)
    theirs = MaskedVisionTransformerDecoderTIMM(num_patches=9, embed_dim=32, depth=2, num_heads=4)
    torch.testing.assert_close(ours.positions, theirs.pos_embed[0, 1:])
    for name, value in theirs.named_parameters():
        if name != "pos_embed":
            value.data.copy_(ours.get_parameter(name).reshape(value.shape))
    kept, cls, patches = torch.tensor([[1, 4], [8, 0]]), torch.randn(2, 24), torch.randn(2, 2, 24)
    index = torch.cat([torch.zeros(2, 1, dtype=torch.long), kept + 1], dim=1)
    visible = ours.embed(torch.cat([cls[:, None], patches], dim=1))
    expected = ours.head(theirs(set_at_index(repeat_token(theirs.mask_token, (2, 10)), index, visible)))[:, 1:]
    torch.testing.assert_close(ours(cls, patches, kept), expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_has_a_gradient() -> None:
    decoder = PatchDecoder(dim=8, grid=(2, 2), outputs=3, width=8, depth=1, heads=2)
    decoder(torch.randn(2, 8), torch.randn(2, 1, 8), torch.tensor([[3], [0]])).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())


def test_sines_equal_lightly_on_squares_and_follow_rows_and_columns() -> None:
    from lightly.models.utils import get_2d_sine_cosine_positional_embedding

    expected = torch.from_numpy(get_2d_sine_cosine_positional_embedding(16, 5, cls_token=False)).float()
    torch.testing.assert_close(sine_positions(16, (5, 5)), expected, rtol=1e-5, atol=1e-6)
    wide = sine_positions(8, (2, 3)).reshape(2, 3, 8)
    one = [math.sin(1), math.sin(0.01), math.cos(1), math.cos(0.01)]
    assert wide[0, 1].tolist() == pytest.approx([*one, 0, 0, 1, 1])  # column 1, row 0
    assert torch.equal(wide[0, :, 4:], wide[0, :1, 4:].expand(3, 4))  # one row
    assert torch.equal(wide[:, 0, :4], wide[:1, 0, :4].expand(2, 4))  # one column
    with pytest.raises(ValueError, match=r"got a width of 30, expected a multiple of 4. Set the width to 28 or 32"):
        sine_positions(30, (2, 2))


@pytest.mark.parametrize("args", [{}, {"reg_tokens": 2}, {"no_embed_class": True}], ids=str)
def test_position_embeddings_of_a_vit_become_fixed_sines(args: dict[str, object]) -> None:
    small = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    settings = BackboneSettings(name="vit_tiny_patch16_224", args=small | args)
    vit = MaskedViT(create_backbone(settings, "rgb", ("R", "G", "B"), 32))
    fix_positions_(vit)
    embedding = vit.backbone.model.pos_embed
    assert not embedding.requires_grad
    assert torch.equal(embedding[0, -16:], sine_positions(24, (4, 4)))
    assert not embedding[0, :-16].any()


def test_patches_equal_lightly_in_row_major_order() -> None:
    from lightly.models.utils import patchify as reference

    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(patchify(x, (3, 3)), reference(x, 4))
    wide = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert patchify(wide, (2, 3))[0].tolist()[4] == [14, 15, 20, 21]
