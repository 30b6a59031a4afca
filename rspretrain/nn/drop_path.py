"""Stochastic depth keyed by sample: the same for any number of ranks, micro-batches and restarts.

timm's DropPath draws from torch's generator, so the dropped paths of a sample depend on its rank and batch.
`key_drop_path_` replaces it by a module that draws from the seeds of the samples, given by `set_seeds` before each
forward. Without seeds, as in a loop of your own, it draws like timm's. Huang et al. 2016 (arXiv 1603.09382);
docs/methods.md, Stochastic depth.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.rng import GOLDEN
from rspretrain.rng_torch import purpose_id, uniform

ensure_torchvision()
from timm.layers import DropPath

State = tuple[Tensor | None, int]
_STEP = (GOLDEN >> 1) | 1  # odd, fits int64, and spreads the seeds of views


@final
class KeyedDropPath(DropPath):
    """Set some rows of [R …] to 0 and divide the others by 1 - `drop_prob`; in training only.

    R = V B for the B samples given to `set_seeds`: V views, concatenated in one call or passed in several calls in the
    same order. Every view of a sample has its own draw.
    """

    def __init__(self, drop_prob: float, scale_by_keep: bool, name: str) -> None:
        """`name`: position in the network; layers with different names have independent draws."""
        super().__init__(drop_prob, scale_by_keep)
        self._purpose = purpose_id(name)  # not in forward, because torch.compile cannot trace it
        self._seeds: Tensor | None = None
        self._views = 0  # views drawn since `set_seeds`

    def set_seeds(self, seeds: Tensor | None, views: int = 0) -> None:
        """Draw for the samples of `seeds` [B] int64 from now on, starting at view number `views`."""
        self._seeds, self._views = seeds, views

    @property
    def state(self) -> State:
        """Arguments for `set_seeds` that repeat the next draws."""
        return self._seeds, self._views

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        seeds = self._seeds
        if not self.training or self.drop_prob == 0.0:
            return x
        if seeds is None or len(x) % len(seeds):
            dropped: Tensor = super().forward(x)
            return dropped
        first, num = self._views, len(x) // len(seeds)
        self._views = first + num
        views = torch.arange(first, first + num, device=seeds.device)[:, None] * _STEP
        kept = uniform((seeds[None, :] + views).flatten(), self._purpose) >= self.drop_prob
        scale = 1 / (1 - self.drop_prob) if self.scale_by_keep else 1.0
        factor: Tensor = kept.to(x.dtype) * scale
        return x * factor.view(-1, *[1] * (x.dim() - 1))


def key_drop_path_(module: nn.Module) -> None:
    """Replace every DropPath in `module` by a KeyedDropPath; call it before the module is wrapped."""
    for name, part in list(module.named_modules()):
        for child_name, child in list(part.named_children()):
            if type(child) is DropPath:
                key = f"drop_path/{name}.{child_name}"
                setattr(part, child_name, KeyedDropPath(child.drop_prob, child.scale_by_keep, key))


def keyed_drop_paths(module: nn.Module) -> list[KeyedDropPath]:
    """All KeyedDropPath modules in `module`."""
    return [part for part in module.modules() if isinstance(part, KeyedDropPath)]


@contextmanager
def replayed_drop_path(states: Sequence[tuple[KeyedDropPath, State]]) -> Iterator[None]:
    """Repeat inside this context the draws that followed these states, for activation checkpointing."""
    now = [(drop, drop.state) for drop, _ in states]
    try:
        for drop, state in states:
            drop.set_seeds(*state)
        yield
    finally:
        for drop, state in now:
            drop.set_seeds(*state)
