"""Masks: exact counts, ratios, complements, and draws keyed by sample."""

import numpy as np
import pytest
import torch

from rspretrain.rng import sample_seeds
from rspretrain.transforms.masking import MaskShape, block_mask, complementary_masks, draw_masks

torch.set_num_threads(1)
SEEDS = torch.from_numpy(sample_seeds(0, 0, np.arange(4000)))
GRID = (6, 8)


def test_the_ratio_gives_the_exact_count() -> None:
    masks = draw_masks(SEEDS[:50], "mask", GRID, 1.0, (0.37, 0.37))
    assert (masks.shape, masks.dtype) == ((50, 48), torch.bool)
    assert masks.sum(dim=1).tolist() == [int(0.37 * 48)] * 50
    assert draw_masks(SEEDS[:5], "mask", GRID, 1.0, (1.0, 1.0)).all()


def test_half_the_images_are_masked_with_uniform_ratios() -> None:
    counts = draw_masks(SEEDS, "mask", GRID, 0.5, (0.1, 0.5)).sum(dim=1)
    active = counts[counts > 0]
    assert len(active) / len(SEEDS) == pytest.approx(0.5, abs=0.03)
    assert sorted(set(active.tolist())) == list(range(int(0.1 * 48), int(0.5 * 48)))  # 24 of 48 only at r = 0.5 itself
    # Mean of floor(48 r), r uniform in [0.1, 0.5): half a patch below 48 * 0.3, within sampling error.
    assert active.double().mean().item() == pytest.approx(48 * 0.3 - 0.5, abs=0.5)


def test_every_patch_is_masked_equally_often() -> None:
    share = draw_masks(SEEDS, "mask", GRID, 1.0, (0.25, 0.25)).double().mean(dim=0)
    assert share.min() > 0.22
    assert share.max() < 0.28


@pytest.mark.parametrize("shape", ["rand", "block"])
def test_masks_do_not_depend_on_the_batch(shape: MaskShape) -> None:
    args = ("mask", GRID, 0.5, (0.1, 0.5), shape)
    together = draw_masks(SEEDS[:30], *args)
    assert torch.equal(draw_masks(SEEDS[20:30], *args), together[20:30])
    assert not torch.equal(draw_masks(SEEDS[:30], "other", *args[1:]), together)


@pytest.mark.parametrize("shape", ["rand", "block"])
def test_a_pair_masks_every_patch_once_or_none(shape: MaskShape) -> None:
    mask = draw_masks(SEEDS[:400], "mask", GRID, 0.5, (0.1, 0.5), shape)
    first, second = complementary_masks(mask, SEEDS[:400], "mask")
    num = mask.sum(dim=1)
    active = num > 0
    assert (first ^ second)[active].all()
    assert not (first | second)[~active].any()
    counts = torch.stack([first.sum(dim=1), second.sum(dim=1)])[:, active]
    assert torch.equal(counts.amin(dim=0), num[active])
    assert torch.equal(counts.amax(dim=0), 48 - num[active])
    light_first = (counts[0] < counts[1]).double().mean().item()
    assert light_first == pytest.approx(0.5, abs=0.12)


def test_blocks_are_rectangles_and_never_exceed_the_count() -> None:
    filled = []
    for seed in range(200):
        mask = block_mask((14, 14), 60, seed)
        assert np.array_equal(mask, block_mask((14, 14), 60, seed))
        assert 0 < mask.sum() <= 60
        filled.append(mask.sum() / 60)
        # A patch of a block has a neighbour beside or below in it far more often than a random one would (30 %).
        assert (mask[:, 1:] & mask[:, :-1]).sum() > 0.5 * mask[:, :-1].sum()
    assert np.mean(filled) > 0.9
    one = block_mask((14, 14), 16, 5)  # low and high of the area are 16: one block of 16, or two that overlap
    assert 0 < one.sum() <= 16


def test_empty_masks() -> None:
    assert not block_mask((4, 4), 0, 1).any()
    assert not draw_masks(SEEDS[:9], "mask", GRID, 0.0, (0.5, 0.5)).any()
    assert not draw_masks(SEEDS[:9], "mask", GRID, 1.0, (0.0, 0.02)).any()  # floor(0.96)
