"""Stochastic depth that belongs to the sample (design.md D4): the same for any number of ranks, pieces and restarts.

timm's DropPath draws from torch's generator, so a sample's paths depend on who computes it beside whom. `key_drops_`
puts one in its place that draws by the samples' seeds, which whoever enters the network with a batch tells to
`begin`; without them, as in another's loop, it draws as timm's does. Huang et al. 2016 (arXiv 1603.09382).
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
_STEP = (GOLDEN >> 1) | 1  # odd, and within int64: seeds of views lie far apart


@final
class KeyedDropPath(DropPath):
    """[R …] to the same with some of the R rows 0 and the others over 1 - `drop_prob`; in training only.

    R is a multiple V of the B samples whose seeds `begin` was given: their views one behind the other, as `torch.cat`
    has them, and in the same order over several calls. Each view of a sample draws for itself.
    """

    def __init__(self, drop_prob: float, scale_by_keep: bool, name: str) -> None:
        """`name` tells the draws of this place in the network from those of others."""
        super().__init__(drop_prob, scale_by_keep)
        self._purpose = purpose_id(name)  # here, because a compiler cannot look into it
        self._seeds: Tensor | None = None
        self._views = 0  # that were drawn for since `begin`

    def begin(self, seeds: Tensor | None, views: int = 0) -> None:
        """What comes next are the samples of `seeds` [B] int64, from view number `views` on."""
        self._seeds, self._views = seeds, views

    @property
    def state(self) -> State:
        """What `begin` takes to draw again what comes next."""
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


def key_drops_(module: nn.Module) -> None:
    """Let every stochastic depth of `module` draw by its place and by samples; call it before anything is wrapped."""
    for name, part in list(module.named_modules()):
        for child_name, child in list(part.named_children()):
            if type(child) is DropPath:
                place = f"drop_path/{name}.{child_name}"
                setattr(part, child_name, KeyedDropPath(child.drop_prob, child.scale_by_keep, place))


def keyed_drops(module: nn.Module) -> list[KeyedDropPath]:
    """All of them."""
    return [part for part in module.modules() if isinstance(part, KeyedDropPath)]


@contextmanager
def drawn_again(states: Sequence[tuple[KeyedDropPath, State]]) -> Iterator[None]:
    """What is computed inside drops the paths that were dropped from these states on."""
    now = [(drop, drop.state) for drop, _ in states]
    try:
        for drop, state in states:
            drop.begin(*state)
        yield
    finally:
        for drop, state in now:
            drop.begin(*state)
