"""FSDP2: every rank holds its part of every parameter, gradient and optimizer tensor, students and teachers alike.

Each block gathers its parameters when it is entered and frees them after it (blocks.py); all that is in no block is
gathered once a step, for the whole of it, so an objective may use its own tokens, heads and embeddings anywhere.

bf16 is autocast, as under DDP, and gathers in bf16 what autocast would cast anyway: the weights and biases of a block's
linear layers and convolutions. Whatever else a block has (norms, layer scales, position biases) is gathered in float32
with the rest. So the forward is DDP's to the last bit: residuals, norms, losses and batch statistics stay float32,
where FSDP2's own casting of a block's inputs would make the residual stream bf16. Shards, gradients' sums over ranks
and optimizer state are float32 always (design.md D6).
"""

from typing import final

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.modules.conv import _ConvNd

from rspretrain.strategies.base import Entry
from rspretrain.strategies.blocks import blocks_of
from rspretrain.strategies.ddp import TorchStrategy


@final
class Fsdp(TorchStrategy):
    """torch's `fully_shard` over all ranks, on GPUs and CPUs alike."""

    is_single_alone = True
    is_sharded = True

    def _wrap(self, entry: Entry) -> nn.Module:
        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        bf16 = torch.bfloat16 if self.settings.precision == "bf16" else None
        in_bf16 = MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks_of(entry):
            rest = [part for part in block.modules() if not isinstance(part, (nn.Linear, _ConvNd))]
            in_float32 = [parameter for part in rest for parameter in part.parameters(recurse=False)]
            entry.adopt(in_float32)
            fully_shard(block, mesh=mesh, mp_policy=in_bf16, ignored_params=set(in_float32))
        fully_shard(entry, mesh=mesh)
        return entry
