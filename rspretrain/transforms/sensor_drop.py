"""RandomSensorDrop: a network that is shown one sensor less, now and then, learns not to need them all.

Wang, Albrecht, Zhu 2022 (DINO-MM), as SCT Fusion uses it (methods.md D.4): with probability 1/2 one sensor, chosen
uniformly, is set to 0 in the whole image, and never all. Of two sensors: 50 % both, 25 % each alone. There 0 is "mean -
2 sigma" of 8-bit data; after standardisation, as here, it is the band's mean (our decision). Applied last, in training
only; for early fusion before the bands are stacked.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from rspretrain.rng_torch import uniform


def drop_sensors(
    images: Mapping[str, Tensor], seeds: Tensor, probability: float = 0.5, purpose: str = "sensor_drop"
) -> dict[str, Tensor]:
    """Sensor -> [B C px px] to the same, with one sensor of a sample zeroed at `probability`; a lone sensor stays.

    `seeds` [B] int64: the choice belongs to the sample (design.md D4), and to the sensors' number and order.
    """
    dropped = dropped_sensor(seeds, len(images), probability, purpose)
    shape = (-1, *[1] * (next(iter(images.values())).dim() - 1))
    # Filled, not multiplied: 0 times NaN is NaN.
    return {name: x.masked_fill((dropped == n).view(shape), 0.0) for n, (name, x) in enumerate(images.items())}


def dropped_sensor(seeds: Tensor, num: int, probability: float = 0.5, purpose: str = "sensor_drop") -> Tensor:
    """[B] int64: which of `num` sensors a sample does without, -1 for none."""
    if num < 2:
        return torch.full_like(seeds, -1)
    u = uniform(seeds, purpose, (2,)).double()  # in float32 (1 - 2^-24) * 3 is 3
    return torch.where(u[:, 0] < probability, torch.floor(u[:, 1] * num), -1.0).long()
