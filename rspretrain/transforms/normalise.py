"""From physical units to network input, per band, in two halves around the resampling.

Clipping does not commute with averaging pixels, so it comes before the resampling; the affine scaling does, so it comes
after, where there are fewer pixels. Preset `hsg` divides by the crop's own maximum instead (methods.md A.2).
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
    """(clip(x, low, high) - mean) / std for every band; buffers [C], in no state dict because the settings say them."""

    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, bands: tuple[str, ...], units: str, scalings: Sequence[Scaling] | None = None
    ) -> None:
        """`scalings` of the bands in their order; None: those of sensors.SCALINGS[name]."""
        super().__init__()
        self.name, self.bands, self.units = name, bands, units
        self.scalings = scalings_for(name, bands) if scalings is None else tuple(scalings)
        self.per_image_max = name == "hsg"
        self.clips = any(math.isfinite(s.low) or math.isfinite(s.high) for s in self.scalings)
        for field in ("low", "high", "mean", "std"):
            values = torch.tensor([getattr(scaling, field) for scaling in self.scalings], dtype=torch.float32)
            self.register_buffer(field, values, persistent=False)

    def clip(self, x: Tensor, channels: list[int] | None = None) -> Tensor:
        """x [B C H W] float32 in `units`, limited in place; `channels` are the places of x's bands in `self.bands`."""
        if not self.clips:
            return x
        low, high = (self.low, self.high) if channels is None else (self.low[channels], self.high[channels])
        return torch.clamp_(x, low[:, None, None], high[:, None, None])

    def scale(self, x: Tensor) -> Tensor:
        """x [B C H W] clipped, to network input."""
        x = (x - self.mean[:, None, None]).mul_(1.0 / self.std[:, None, None])
        if self.per_image_max:
            x = x / (x.amax(dim=(2, 3), keepdim=True) + HSG_EPSILON)
        return x
