"""Crop boxes: distributions, alignment to grids, symmetries."""

import math

import pytest
import torch

from rspretrain.transforms.crops import centre_crop, random_resized_crop, random_window, with_symmetry
from rspretrain.transforms.resample import Geometry

torch.set_num_threads(1)
CPU = torch.device("cpu")
SEEDS = torch.arange(3000) * 104729 + 1


def test_random_resized_crops_follow_torchvisions_distribution() -> None:
    sizes = torch.tensor([[256, 256]])
    boxes = random_resized_crop(SEEDS, "crop", sizes, (0.2, 0.5)) * 256
    assert torch.equal(boxes, boxes.round())
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = (height * width / 256**2).sort().values
    assert area[0] >= 0.195
    assert area[-1] <= 0.505
    assert area.mean() == pytest.approx(0.35, abs=0.01)
    logs = torch.log(width / height)
    assert logs.abs().max() <= math.log(4 / 3) + 0.02
    assert logs.mean().abs() < 0.01
    assert boxes.min() >= 0
    assert boxes.max() == 256
    free = 256 - height
    assert (boxes[:, 0] / free.clamp(min=1)).mean() == pytest.approx(0.5, abs=0.02)


def test_crops_that_do_not_fit_are_cut() -> None:
    boxes = random_resized_crop(SEEDS, "crop", torch.tensor([[100, 40]]), (0.9, 1.0))
    assert boxes.min() >= 0
    assert boxes.max() == 1
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_windows_are_aligned_to_the_coarsest_grid_and_reach_every_position() -> None:
    finest, coarsest = torch.tensor([[120, 120]]), torch.tensor([[20, 20]])
    corners = random_window(SEEDS, "window", finest, coarsest, 90) * 120
    assert sorted(set(corners[:, 0].tolist())) == [0, 6, 12, 18, 24, 30]
    torch.testing.assert_close(corners[:, 2] - corners[:, 0], torch.full((3000,), 90.0, dtype=torch.float64))
    fine = random_window(SEEDS, "window", finest, finest, 90) * 120
    assert len(fine[:, 1].round().unique()) == 31
    small = random_window(SEEDS[:5], "window", torch.tensor([[50, 80]]), torch.tensor([[50, 80]]), 64)
    assert torch.equal(small[:, [0, 2]], torch.tensor([[0.0, 1.0]] * 5, dtype=torch.float64))


@pytest.mark.parametrize(("symmetry", "kinds"), [("none", 1), ("horizontal", 2), ("dihedral", 8)])
def test_symmetries_are_equally_likely(symmetry: str, kinds: int) -> None:
    g: Geometry = with_symmetry(torch.zeros(1, 4), SEEDS, "symmetry", symmetry)
    codes = g.flips[:, 0] + 2 * g.flips[:, 1] + 4 * g.transposes
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == kinds
    assert counts.min() > 0.8 * 3000 / kinds


def test_centre_crop_of_a_smaller_image_is_the_whole_image() -> None:
    boxes = centre_crop(torch.tensor([[30, 20]]), 25, 1).boxes * torch.tensor([30, 20, 30, 20])
    torch.testing.assert_close(boxes, torch.tensor([[2.0, 0.0, 27.0, 20.0]], dtype=torch.float64))
