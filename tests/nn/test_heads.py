"""Projection heads: layers, biases, prototypes, and the error."""

import pytest
import torch
from torch import nn

from rspretrain.nn.heads import PrototypeHead, projection_mlp


def test_dual_simclr_head_is_two_linear_layers_with_biases() -> None:
    head = projection_mlp((512, 512, 128), norm=False)
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in head.parameters()) == 512 * 512 + 512 + 512 * 128 + 128


def test_simclr_head_normalises_before_relu() -> None:
    head = projection_mlp((6, 5, 4, 3), norm=True)
    kinds = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in head] == kinds
    assert head[0].bias is None
    assert head(torch.randn(4, 6)).shape == (4, 3)


def test_one_width_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"got dims=\[5\], expected at least two widths. Add an output width"):
        projection_mlp((5,), norm=False)


def test_prototype_head_has_the_papers_layers() -> None:
    head = PrototypeHead(384, 2048, 256, 8192)
    layers = [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]
    assert [type(layer) for layer in head.mlp] == layers
    shapes = [tuple(layer.weight.shape) for layer in head.mlp if isinstance(layer, nn.Linear)]
    assert shapes == [(2048, 384), (2048, 2048), (256, 2048)]
    assert tuple(head.prototypes.shape) == (8192, 256)


@pytest.mark.parametrize("learned", [False, True])
def test_last_layer_equals_torchs_weight_norm_on_unit_vectors(learned: bool) -> None:
    torch.manual_seed(0)
    head = PrototypeHead(6, 8, 5, 7, learn_lengths=learned)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(5, 7, bias=False))
    lengths = torch.rand(7) + 0.5 if learned else torch.ones(7)
    if learned:
        head.lengths.data.copy_(lengths)
    last.parametrizations.weight.original0.data.copy_(lengths[:, None])
    last.parametrizations.weight.original1.data.copy_(head.prototypes.data)
    x = torch.randn(3, 4, 6)
    torch.testing.assert_close(head(x), last(nn.functional.normalize(head.mlp(x), dim=-1)))
    mean = head.outputs(head.directions(x).mean(dim=1))
    torch.testing.assert_close(mean, head(x).mean(dim=1))


@pytest.mark.parametrize("learned", [False, True])
def test_frozen_prototypes_have_zero_gradients_and_the_rest_is_unchanged(learned: bool) -> None:
    torch.manual_seed(0)
    head, x = PrototypeHead(6, 8, 5, 7, learn_lengths=learned), torch.randn(4, 6)
    head(x).square().sum().backward()
    free = {name: parameter.grad.clone() for name, parameter in head.named_parameters()}
    head.zero_grad()
    head.frozen = True
    head(x).square().sum().backward()
    for name, parameter in head.named_parameters():
        last = name in ("prototypes", "lengths")
        assert torch.equal(parameter.grad, torch.zeros_like(parameter) if last else free[name])
        assert free[name].any()


def test_adamw_does_not_change_the_outputs_of_frozen_prototypes() -> None:
    torch.manual_seed(0)
    head, x = PrototypeHead(6, 8, 5, 7), torch.randn(4, 6)
    head.frozen, z = True, head.directions(x).detach()
    before = head.outputs(z).detach()
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        head(x).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(head.outputs(z).detach(), before, rtol=0, atol=1e-6)  # weight decay changes lengths only
    assert not torch.allclose(head.directions(x), z)
