"""Projection heads: small networks between a backbone and a loss, thrown away after pretraining."""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def projection_mlp(dims: Sequence[int], norm: bool, last_bias: bool = True, gelu: bool = False) -> nn.Sequential:
    """Linear layers of widths dims[0] -> dims[1] -> …, with ReLU (or GELU) between, and BatchNorm before it if `norm`.

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
        layers.append(nn.GELU() if gelu else nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1], bias=last_bias))


@final
class PrototypeHead(nn.Module):
    """[… D] to [… K]: three layers with GELU to a direction in `bottleneck` dimensions, compared with K prototypes.

    DINO's and iBOT's head (methods.md C.3): the last layer is weight-normalised and has no bias, so an output is the
    cosine of direction and prototype, times the prototype's length, which is 1 unless it is learned (iBOT's
    norm_last_layer: false). Linear as it is, the mean of outputs is the output of the mean direction.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, outputs: int, learn_lengths: bool = False) -> None:
        super().__init__()
        self.mlp = projection_mlp((width, hidden, hidden, bottleneck), norm=False, gelu=True)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(nn.init.trunc_normal_(torch.empty(outputs, bottleneck), std=0.02))
        self.lengths = nn.Parameter(torch.ones(outputs)) if learn_lengths else None
        # Prototypes then get a gradient of exactly 0. None, as in iBOT, would be an error under DDP and ZeRO. AdamW
        # without momentum moves nothing on it but shrinks prototypes by decay, of which only directions count.
        self.frozen = False

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.outputs(self.directions(x))

    def directions(self, x: Tensor) -> Tensor:
        """[… D] to unit vectors [… bottleneck], float32 or better."""
        z: Tensor = self.mlp(x)
        return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)

    def outputs(self, z: Tensor) -> Tensor:
        """[… bottleneck] to [… K]."""
        prototypes = F.normalize(self.prototypes, dim=1)
        if not self.frozen:
            cosines = F.linear(z, prototypes)
            return cosines if self.lengths is None else cosines * self.lengths
        trained = [self.prototypes] if self.lengths is None else [self.prototypes, self.lengths]
        z = z + 0.0 * torch.stack([parameter.sum() for parameter in trained]).sum()  # a gradient for every parameter
        cosines = F.linear(z, prototypes.detach())
        return cosines if self.lengths is None else cosines * self.lengths.detach()
