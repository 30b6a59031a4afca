"""Per-band normalisation from physical units to network input: clipping before resampling, scaling at the very end.

Clipping does not commute with averaging pixels, so it comes before the resampling. The affine scaling does commute, so
it comes after, where there are fewer pixels. Preset `hsg` (the released Dual-SimCLR code) also divides by the crop's
own maximum (docs/methods.md, Sensors and normalisation).
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from rspretrain.sensors import Scaling, scalings_for

HSG_EPSILON = 1e-5


@final
class Normalise(nn.Module):
    """(clip(x, low, high) - mean) / std per band; buffers [C], not in the state dict because the settings hold them.

    `resample` clips to `low` and `high`; `scale` does the rest.
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, bands: tuple[str, ...], units: str, scalings: Sequence[Scaling] | None = None
    ) -> None:
        """`scalings`: one per band, in order; None: those of sensors.SCALINGS[name]."""
        super().__init__()
        self.name, self.bands, self.units = name, bands, units
        self.scalings = scalings_for(name, bands) if scalings is None else tuple(scalings)
        self.per_image_max = name == "hsg"
        self.clips = any(math.isfinite(s.low) or math.isfinite(s.high) for s in self.scalings)
        for field in ("low", "high", "mean", "std"):
            values = torch.tensor([getattr(scaling, field) for scaling in self.scalings], dtype=torch.float32)
            self.register_buffer(field, values, persistent=False)

    def scale(self, x: Tensor) -> Tensor:
        """Network input from clipped x [B C H W]."""
        x = (x - self.mean[:, None, None]).mul_(1.0 / self.std[:, None, None])
        if self.per_image_max:
            x = x / (x.amax(dim=(2, 3), keepdim=True) + HSG_EPSILON)
        return x
