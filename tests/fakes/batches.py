"""Batches of generated pixels whose content is a function of the sample's position only."""

from collections.abc import Sequence

import numpy as np
import torch

from rspretrain.batch import Batch
from rspretrain.rng import sample_seeds
from rspretrain.sensors import Group

# BigEarthNet-MM's grids at a fifth of their size, and images of odd size as in UC-Merced.
GROUPS = (
    Group("s1", "s1", ("VV", "VH"), "float32", (24, 24), 10.0, "db"),
    Group("s2_10m", "s2", ("B02", "B03", "B04", "B08"), "uint16", (24, 24), 10.0, "dn"),
    Group("s2_20m", "s2", ("B05", "B11"), "uint16", (12, 12), 20.0, "dn"),
    Group("s2_60m", "s2", ("B01", "B09"), "uint16", (4, 4), 60.0, "dn"),
    Group("rgb", "rgb", ("R", "G", "B"), "uint8", None, None, "grey"),
)
_CANVAS = (40, 44)


def batch_of(positions: np.ndarray, groups: Sequence[Group] = GROUPS, seed: int = 0) -> Batch:
    """The samples at these positions of epoch 0."""
    parts = [_sample(int(position), groups) for position in positions]
    images = {group.name: torch.stack([part[0][group.name] for part in parts]) for group in groups}
    sizes = {group.name: torch.stack([part[1] for part in parts]) for group in groups if group.shape is None}
    return Batch(images, sizes, torch.from_numpy(sample_seeds(seed, 0, positions)), positions.astype(np.int64))


def _sample(position: int, groups: Sequence[Group]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    rng = np.random.default_rng(position)
    size = (int(rng.integers(30, _CANVAS[0] + 1)), int(rng.integers(30, _CANVAS[1] + 1)))
    images = {}
    for group in groups:
        shape = (len(group.bands), *(group.shape or _CANVAS))
        if group.units == "db":
            pixels = rng.normal(-14.0, 6.0, shape).astype(group.dtype)
        else:
            pixels = rng.integers(0, {"dn": 12000, "grey": 256}[group.units], shape).astype(group.dtype)
        if group.shape is None:
            pixels[:, size[0] :], pixels[:, :, size[1] :] = 0, 0
        images[group.name] = torch.from_numpy(pixels)
    return images, torch.tensor(size)
