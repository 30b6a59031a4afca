"""FSDP2: shards every parameter, gradient and optimizer tensor over all ranks, of students and teachers.

Each block (blocks.py) gathers its parameters before its forward and frees them afterwards. Parameters outside of blocks
are gathered once per step, so an objective can use its tokens, heads and embeddings anywhere.

bf16 uses autocast, as DDP does. A block's linear layers and convolutions are gathered in bf16, because autocast would
cast them anyway. Other parameters of a block (norms, layer scales, position biases) are gathered in
float32. The forward is therefore bit-equal to DDP's: residuals, norms, losses and batch statistics stay float32,
whereas FSDP2's casting of block inputs would make the residual stream bf16. Shards, gradient reductions and optimizer
state are always float32.
"""

from typing import final

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.modules.conv import _ConvNd

from rspretrain.strategies.base import ObjectiveWrapper
from rspretrain.strategies.blocks import blocks_of
from rspretrain.strategies.ddp import TorchStrategy


@final
class Fsdp(TorchStrategy):
    """torch's `fully_shard` over all ranks, on GPUs and CPUs."""

    is_single_alone = True
    is_sharded = True

    def _wrap(self, wrapper: ObjectiveWrapper) -> nn.Module:
        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        bf16 = torch.bfloat16 if self.settings.precision == "bf16" else None
        in_bf16 = MixedPrecisionPolicy(param_dtype=bf16, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks_of(wrapper):
            rest = [part for part in block.modules() if not isinstance(part, (nn.Linear, _ConvNd))]
            in_float32 = [parameter for part in rest for parameter in part.parameters(recurse=False)]
            wrapper.register_direct(in_float32)
            fully_shard(block, mesh=mesh, mp_policy=in_bf16, ignored_params=set(in_float32))
        fully_shard(wrapper, mesh=mesh)
        return wrapper
