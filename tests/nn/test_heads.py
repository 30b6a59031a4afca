"""Projection heads: layers, biases, and the error."""

import pytest
import torch
from torch import nn

from rspretrain.nn.heads import projection_mlp


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


def test_one_width_is_no_projection() -> None:
    with pytest.raises(ValueError, match=r"input and an output width: got dims=\[5\]. Give at least two"):
        projection_mlp((5,), norm=False)
