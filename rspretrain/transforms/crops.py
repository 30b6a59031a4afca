"""Where views lie: random crops, shared windows, centre crops and symmetries, keyed by sample.

Boxes are [B 4] float64: top, left, bottom and right as shares of the image's height and width.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rspretrain.rng_torch import uniform
from rspretrain.sensors import Group
from rspretrain.transforms.resample import Geometry

# Whether a view may be turned upside down, left to right, and about its diagonal: all three are 8 flips and rotations.
SYMMETRIES = {
    "none": (False, False, False),
    "horizontal": (False, True, False),
    "flips": (True, True, False),
    "dihedral": (True, True, True),
}


def check_crop(crop_px: int, groups: Sequence[Group]) -> None:
    """ValueError where a window of crop_px pixels does not fit the images, as far as their size is fixed."""
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
    """[B 4] boxes: area a share U(scale) of the image, width / height log-uniform in `ratio`, whole pixels of `sizes`.

    torchvision draws again, up to ten times, where a box does not fit; here its longer side is cut to the image, so
    that the cost is fixed and a sample's draw is one. Only boxes near the whole image differ.
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
    """[B 4] boxes of crop_px x crop_px pixels of the finest grid, one place for all sensors and grids (methods.md A.2).

    The corner lies on a pixel corner of the coarsest needed grid (every 6th pixel with 60 m bands beside 10 m ones), so
    that all crops start at whole pixels; where grids do not nest, on whole pixels of the finest. Cut to the image where
    it is smaller than the window.
    """
    u = uniform(seeds, purpose, (2,)).double()
    ratio = torch.where(finest % coarsest == 0, finest // coarsest, 1)
    window = finest.clamp(max=crop_px)
    corner = torch.floor(u * ((finest - window) // ratio + 1)) * ratio  # [B 2] top, left
    return torch.cat([corner / finest, (corner + window) / finest], dim=1)


def centre_crop(finest: Tensor, crop_px: int, num: int) -> Geometry:
    """The middle crop_px x crop_px pixels of the finest grid, or the whole image where it is smaller."""
    window = finest.clamp(max=crop_px)
    corner = ((finest - window) // 2).double()
    boxes = torch.cat([corner / finest, (corner + window) / finest], dim=1).expand(num, 4)
    none = torch.zeros(num, 2, dtype=torch.bool, device=finest.device)
    return Geometry(boxes, none, none[:, 0])


def with_symmetry(boxes: Tensor, seeds: Tensor, purpose: str, symmetry: str) -> Geometry:
    """Boxes and a random symmetry of SYMMETRIES, such as `horizontal` (photographs) or `dihedral` (overhead)."""
    bits = uniform(seeds, purpose, (3,)) < 0.5
    bits = bits & torch.tensor(SYMMETRIES[symmetry], device=bits.device)
    return Geometry(boxes.expand(len(seeds), 4), bits[:, :2], bits[:, 2])
