"""Patch masks for masked image modelling, drawn from the sample's seed.

Random and block masks as in iBOT (Zhou et al. 2022, and its code), and GSC-MIM's pairs of complementary masks
(docs/methods.md, Complementary masks).
"""

import math
from collections.abc import Iterator
from itertools import count
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain.rng import mix, mix_array
from rspretrain.rng_torch import purpose_id, uniform

MaskShape = Literal["rand", "block"]


def draw_masks(
    seeds: Tensor,
    purpose: str,
    grid: tuple[int, int],
    probability: float,
    ratio: tuple[float, float],
    shape: MaskShape = "rand",
) -> Tensor:
    """[B N] bool, True: masked; N is the number of patches of `grid` (rows, columns), in row-major order.

    An image is masked with `probability`. Then n = floor(r N) patches are masked, r uniform in `ratio`: exactly n
    random patches (`rand`), or at most n in iBOT's blocks, which may not fit the remaining number (`block`).
    """
    num = grid[0] * grid[1]
    r = ratio[0] + (ratio[1] - ratio[0]) * uniform(seeds, f"{purpose}/ratio").double()
    counts = torch.where(uniform(seeds, f"{purpose}/active") < probability, torch.floor(r * num), 0.0).long()  # [B]
    if shape == "block":
        words = purpose_id(f"{purpose}/block")
        masks = [block_mask(grid, n, seed, words) for n, seed in zip(counts.tolist(), seeds.tolist(), strict=True)]
        return torch.from_numpy(np.stack(masks)).flatten(1).to(seeds.device)
    # Stable, so that equal draws (24 bits) are ordered alike on every device.
    order = uniform(seeds, f"{purpose}/order", (num,)).argsort(dim=1, stable=True)
    first = torch.arange(num, device=seeds.device) < counts[:, None]
    return torch.zeros_like(first).scatter_(1, order, first)


def block_mask(grid: tuple[int, int], num: int, *words: int) -> NDArray[np.bool_]:
    """[rows columns] with at most `num` masked patches, in rectangles as in iBOT; a pure function of `words`."""
    mask = np.zeros(grid, dtype=bool)
    draws = _uniforms(*words)
    while (remaining := num - int(mask.sum())) > 0:
        if not any(_add_block_(mask, remaining, draws) for _ in range(10)):
            break
    return mask


def _add_block_(mask: NDArray[np.bool_], remaining: int, draws: Iterator[float]) -> bool:
    """Try one rectangle of random area and aspect; accept it if it fits and masks 1 to `remaining` more patches."""
    rows, columns = mask.shape
    min_area = (min(rows, columns) // 3) ** 2
    area = min_area + (remaining - min_area) * next(draws)
    aspect = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * next(draws))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    top, left = int((rows - height + 1) * next(draws)), int((columns - width + 1) * next(draws))
    if height >= rows or width >= columns:
        return False
    block = mask[top : top + height, left : left + width]
    if not 0 < block.size - int(block.sum()) <= remaining:
        return False
    block[:] = True
    return True


def _uniforms(*words: int) -> Iterator[float]:
    """An endless stream of uniform numbers in [0, 1)."""
    for chunk in count():
        bits = mix_array(mix(*words, chunk), np.arange(64)) >> np.uint64(11)
        yield from (bits * 2.0**-53).tolist()


def complementary_masks(mask: Tensor, seeds: Tensor, purpose: str) -> Tensor:
    """[2 B N]: the mask [B N] and its complement, in random order; all False for images without masked patches.

    The order is random so that neither view always gets the smaller mask.
    """
    active = mask.any(dim=1, keepdim=True)
    swapped = (uniform(seeds, f"{purpose}/swap") < 0.5)[:, None]
    first = (mask ^ swapped) & active
    return torch.stack([first, ~first & active])
