"""The repeated blocks of a network: what FSDP2 gathers, what is recomputed, and what is compiled, one at a time.

Recomputing and compiling replace the block's `forward`, so that no name of a parameter changes and hooks around the
block's call (FSDP2's, DeepSpeed's) stay outside.
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

from rspretrain.nn.drop_path import KeyedDropPath, State, drawn_again, keyed_drops

# timm's names and our decoders': ViT blocks, ResNet layer1 …, Swin layers.n.blocks, ConvNeXt stages.n.blocks.
_LISTS = re.compile(r"(.+_)?blocks|layers|stages|layer\d+")


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The innermost repeated blocks in the order of their names, students' and teachers' alike; none in a plain MLP.

    They are the members of every Sequential or ModuleList called blocks, …_blocks, layers, stages or layerN, unless
    they have such a list themselves.
    """
    found = [
        block
        for name, part in module.named_modules()
        if _LISTS.fullmatch(name.rpartition(".")[2]) and isinstance(part, (nn.Sequential, nn.ModuleList))
        for block in _members(part)
    ]
    return [block for block in found if not any(other in found for other in block.modules() if other is not block)]


def _members(part: nn.Module) -> Iterator[nn.Module]:
    """Its children, where they are lists theirs (EfficientNet); layers without parts of their own are no blocks."""
    for child in part.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from _members(child)
        elif next(child.children(), None) is not None:
            yield child


def need_blocks(module: nn.Module, setting: str) -> list[nn.Module]:
    """`blocks_of`, for a setting of the strategy that works on them. ValueError where there are none."""
    blocks = blocks_of(module)
    if not blocks:
        raise ValueError(
            f"strategy.{setting}: got true for a network without repeated blocks, expected one with lists called "
            f"blocks, layers, stages or layer1 …, as ViT, ResNet, Swin and ConvNeXt have. Set strategy.{setting}=false."
        )
    return blocks


def recompute_(block: nn.Module) -> None:
    """Keep only the block's input for the backward, and run the block again there, with the same random numbers."""
    forward, drops = block.forward, keyed_drops(block)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _as_before(block, [(drop, drop.state) for drop in drops])

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():  # a teacher's
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    block.forward = recomputed


@contextmanager
def _as_before(block: nn.Module, states: Sequence[tuple[KeyedDropPath, State]]) -> Iterator[None]:
    with drawn_again(states), _buffers_kept(block):
        yield


@contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Running statistics see every batch once, however often it is computed."""
    kept = [(buffer, buffer.clone()) for buffer in block.buffers()]
    try:
        yield
    finally:  # also where torch stops early, having what it needs
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def compile_(blocks: list[nn.Module]) -> None:
    """Let torch.compile fuse each block; blocks that differ in their tensors only are compiled once."""
    from torch._dynamo import config  # slow
    from torch._inductor import config as inductor

    inductor.fallback_random = True  # dropout draws what it draws uncompiled
    # Beyond 8 variants of one piece of code (drop rates, strides, teachers) torch would go on uncompiled.
    config.recompile_limit = max(config.recompile_limit, 8 * len(blocks))
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 8 * len(blocks))
    for block in blocks:
        # Sizes are few and fixed. Left to itself torch would see those of a ResNet's stages as one that changes, and
        # torch 2.13 fails to compile strided convolutions of changing size.
        block.forward = torch.compile(block.forward, dynamic=False)


def check_compiler(device: torch.device) -> None:
    """ValueError where torch.compile has no compiler for this kind of device."""
    if device.type == "cpu":
        needed, found = os.environ.get("CXX", "g++"), shutil.which(os.environ.get("CXX", "g++"))
    else:
        needed, found = "triton", importlib.util.find_spec("triton")  # type: ignore[assignment]
    if found is None:
        raise ValueError(
            f"strategy.compile: got true on a machine without {needed}, which torch.compile needs for device type "
            f"{device.type}. Install {needed}, or set strategy.compile=false."
        )
