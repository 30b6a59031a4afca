"""Crop boxes and flips, before resampling: random resized crops, shared windows, centre crops, symmetries.

Boxes are [B 4] float64: top, left, bottom and right, as fractions of the image's height and width, so one box fits the
10, 20 and 60 m grids of a sample. Draws are keyed by sample.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rspretrain.rng_torch import uniform
from rspretrain.sensors import Group
from rspretrain.transforms.resample import Geometry

# Allowed random flips: vertical, horizontal, transposition. All three together give the 8 flips and rotations.
SYMMETRIES = {
    "none": (False, False, False),
    "horizontal": (False, True, False),
    "flips": (True, True, False),
    "dihedral": (True, True, True),
}


def check_crop(crop_px: int, groups: Sequence[Group]) -> None:
    """Raise ValueError if crop_px exceeds the images; groups without a fixed image size are skipped."""
    sides = [min(group.shape) for group in groups if group.shape is not None]
    if sides and crop_px > max(sides):
        raise ValueError(
            f"A window of crop_px={crop_px} pixels does not fit images of {max(sides)} pixels on the finest grid. "
            f"Set objective.crop_px to at most {max(sides)}; objective.px is the size of the network input."
        )


def random_resized_crop(
    seeds: Tensor,
    purpose: str,
    sizes: Tensor,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Random resized crops: [B 4] boxes in whole pixels of images of `sizes` [B 2].

    The area is a fraction U(scale) of the image, the aspect ratio width / height is log-uniform in `ratio`. torchvision
    redraws a box that does not fit, up to ten times. Here its longer side is cut to the image, so the cost is fixed and
    a sample needs one draw. Only boxes of nearly the whole image differ.
    """
    u = uniform(seeds, purpose, (4,)).double()
    height, width = sizes[:, 0].double(), sizes[:, 1].double()
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, 0])
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * u[:, 1])
    rows = torch.minimum(torch.round(torch.sqrt(area / aspect)).clamp(min=1.0), height)
    columns = torch.minimum(torch.round(torch.sqrt(area * aspect)).clamp(min=1.0), width)
    top = torch.floor(u[:, 2] * (height - rows + 1))
    left = torch.floor(u[:, 3] * (width - columns + 1))
    return torch.stack([top / height, left / width, (top + rows) / height, (left + columns) / width], dim=1)


def random_window(seeds: Tensor, purpose: str, finest: Tensor, coarsest: Tensor, crop_px: int) -> Tensor:
    """Random windows: [B 4] boxes of crop_px x crop_px pixels of the finest grid, shared by all sensors and grids.

    Corners are aligned to the coarsest grid in use (every 6th pixel with 60 m bands beside 10 m ones), so the crop
    starts at a whole pixel in every grid. Where grids do not nest, corners are aligned to the finest grid. A window
    larger than the image is cut to the image.
    """
    u = uniform(seeds, purpose, (2,)).double()
    ratio = torch.where(finest % coarsest == 0, finest // coarsest, 1)
    window = finest.clamp(max=crop_px)
    corner = torch.floor(u * ((finest - window) // ratio + 1)) * ratio  # [B 2] top, left
    return torch.cat([corner / finest, (corner + window) / finest], dim=1)


def centre_crop(finest: Tensor, crop_px: int, num: int) -> Geometry:
    """The central crop_px x crop_px pixels of the finest grid, or the whole image if it is smaller."""
    window = finest.clamp(max=crop_px)
    corner = ((finest - window) // 2).double()
    boxes = torch.cat([corner / finest, (corner + window) / finest], dim=1).expand(num, 4)
    none = torch.zeros(num, 2, dtype=torch.bool, device=finest.device)
    return Geometry(boxes, none, none[:, 0])


def with_symmetry(boxes: Tensor, seeds: Tensor, purpose: str, symmetry: str) -> Geometry:
    """Add random flips from SYMMETRIES to boxes: `horizontal` for photographs, `dihedral` for overhead images."""
    bits = uniform(seeds, purpose, (3,)) < 0.5
    bits = bits & torch.tensor(SYMMETRIES[symmetry], device=bits.device)
    return Geometry(boxes.expand(len(seeds), 4), bits[:, :2], bits[:, 2])
