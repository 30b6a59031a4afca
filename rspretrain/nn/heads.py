"""Projection heads: small networks between a backbone and a loss, thrown away after pretraining."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def projection_mlp(dims: Sequence[int], norm: bool, last_bias: bool = True) -> nn.Sequential:
    """Linear layers of widths dims[0] -> dims[1] -> …, with ReLU between, and BatchNorm before each ReLU if `norm`.

    Biases everywhere but before a norm, which has its own. (D, D, 128) without norm is Dual-SimCLR's head
    (methods.md A.3), with norm SimCLR's (Chen et al. 2020; A.6); (D, 4096, 256) with norm, no last bias, BYOL's (B.2).
    """
    if len(dims) < 2:
        raise ValueError(f"A projection needs an input and an output width: got dims={list(dims)}. Give at least two.")
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(dims[:-1]):
        layers.append(nn.Linear(width_in, width_out, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm1d(width_out))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1], bias=last_bias))
