"""The repeated blocks of a network, the units of FSDP2 sharding, activation checkpointing and compilation.

Checkpointing and compilation replace the block's `forward`, so that parameter names do not change and hooks on the
block's call (FSDP2, DeepSpeed) stay outside.
"""

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rspretrain.nn.drop_path import KeyedDropPath, State, keyed_drop_paths, replayed_drop_path

# Names in timm and in our decoders: ViT blocks, ResNet layer1 …, Swin layers.n.blocks, ConvNeXt stages.n.blocks.
_LISTS = re.compile(r"(.+_)?blocks|layers|stages|layer\d+")


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The innermost repeated blocks of a module, in module order, including those of teachers.

    Blocks are the members of every Sequential or ModuleList named blocks, …_blocks, layers, stages or layerN that
    contain no such list themselves. A plain MLP has none.
    """
    found = [
        block
        for name, part in module.named_modules()
        if _LISTS.fullmatch(name.rpartition(".")[2]) and isinstance(part, (nn.Sequential, nn.ModuleList))
        for block in _members(part)
    ]
    return [block for block in found if not any(other in found for other in block.modules() if other is not block)]


def _members(part: nn.Module) -> Iterator[nn.Module]:
    """The children that have children of their own; nested lists (EfficientNet) are flattened."""
    for child in part.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from _members(child)
        elif next(child.children(), None) is not None:
            yield child


def require_blocks(module: nn.Module, setting: str) -> list[nn.Module]:
    """`blocks_of`, for a strategy setting that needs blocks. ValueError if there are none."""
    blocks = blocks_of(module)
    if not blocks:
        raise ValueError(
            f"strategy.{setting}: got true for a network without repeated blocks, expected a network with lists named "
            f"blocks, layers, stages or layer1 … (ViT, ResNet, Swin, ConvNeXt). Set strategy.{setting}=false."
        )
    return blocks


def checkpoint_activations_(block: nn.Module) -> None:
    """Store only the block's input for the backward pass; recompute the block there with the same random numbers."""
    forward, drops = block.forward, keyed_drop_paths(block)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _same_state(block, [(drop, drop.state) for drop in drops])

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():  # a teacher
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    block.forward = recomputed


@contextmanager
def _same_state(block: nn.Module, states: Sequence[tuple[KeyedDropPath, State]]) -> Iterator[None]:
    with replayed_drop_path(states), _unchanged_buffers(block):
        yield


@contextmanager
def _unchanged_buffers(block: nn.Module) -> Iterator[None]:
    """Restore buffers afterwards: running statistics must count every batch once."""
    saved = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:  # also if torch stops the recomputation early
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def compile_blocks_(blocks: list[nn.Module]) -> None:
    """Compile each block with torch.compile. Blocks that differ only in their tensors are compiled once."""
    from torch._dynamo import config  # slow import
    from torch._inductor import config as inductor

    inductor.fallback_random = True  # dropout draws the same numbers as without compilation
    # By default, torch falls back to eager mode after 8 variants of a block (drop rates, strides, teachers).
    config.recompile_limit = max(config.recompile_limit, 8 * len(blocks))
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * len(blocks))
    for block in blocks:
        # Shapes are few and fixed. With dynamic=None, torch treats the shapes of a ResNet's stages as one dynamic
        # shape, and torch 2.13 fails to compile strided convolutions with dynamic shapes.
        block.forward = torch.compile(block.forward, dynamic=False)


def check_compiler(device: torch.device) -> None:
    """ValueError if torch.compile has no compiler for the type of the device."""
    if device.type == "cpu":
        needed, found = os.environ.get("CXX", "g++"), shutil.which(os.environ.get("CXX", "g++"))
    else:
        needed, found = "triton", importlib.util.find_spec("triton")  # type: ignore[assignment]
    if found is None:
        raise ValueError(
            f"strategy.compile: got true without {needed}, which torch.compile needs for device type {device.type}. "
            f"Install {needed}, or set strategy.compile=false."
        )
