"""Projection heads: small networks between backbone and loss, discarded after pretraining."""

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def projection_mlp(dims: Sequence[int], norm: bool, last_bias: bool = True, gelu: bool = False) -> nn.Sequential:
    """Linear layers of widths dims[0] -> dims[1] -> …, with ReLU (or GELU) between, and BatchNorm before it if `norm`.

    Layers before a norm have no bias, because the norm has one. (D, D, 128) is the head of Dual-SimCLR without norm and
    of SimCLR with norm; (D, 4096, 256) with norm and without last bias is BYOL's (docs/methods.md, the three sections).
    """
    if len(dims) < 2:
        raise ValueError(f"projection_mlp: got dims={list(dims)}, expected at least two widths. Add an output width.")
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(dims[:-1]):
        layers.append(nn.Linear(width_in, width_out, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm1d(width_out))
        layers.append(nn.GELU() if gelu else nn.ReLU(inplace=True))
    return nn.Sequential(*layers, nn.Linear(dims[-2], dims[-1], bias=last_bias))


@final
class PrototypeHead(nn.Module):
    """DINO head: [… D] to [… K] by a three-layer MLP with GELU, L2 normalisation and K prototypes.

    As in DINO and iBOT (docs/methods.md, DINO): the last layer is weight-normalised without bias, so an output is the
    cosine of direction and prototype, times the prototype's length. The length is 1 unless it is learned
    (norm_last_layer: false). The last layer is linear, so the mean of outputs is the output of the mean direction.
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
        # While frozen, prototypes have a gradient of exactly 0. No gradient at all, as in iBOT, is an error under DDP
        # and ZeRO. AdamW without momentum then only shrinks prototypes by weight decay, and only directions matter.
        self.frozen = False

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.outputs(self.directions(x))

    def directions(self, x: Tensor) -> Tensor:
        """Unit vectors [… bottleneck] of x [… D], float32 or better."""
        z: Tensor = self.mlp(x)
        return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1)

    def outputs(self, z: Tensor) -> Tensor:
        """Outputs [… K] of directions z [… bottleneck]."""
        prototypes = F.normalize(self.prototypes, dim=1)
        if not self.frozen:
            cosines = F.linear(z, prototypes)
            return cosines if self.lengths is None else cosines * self.lengths
        trained = [self.prototypes] if self.lengths is None else [self.prototypes, self.lengths]
        z = z + 0.0 * torch.stack([parameter.sum() for parameter in trained]).sum()  # a gradient for every parameter
        cosines = F.linear(z, prototypes.detach())
        return cosines if self.lengths is None else cosines * self.lengths.detach()
