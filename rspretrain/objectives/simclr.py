"""SimCLR: two random views of one image of one sensor, NT-Xent between them.

Chen et al. 2020; methods.md A.6. Photometric views are SimCLR's where the bands are a true-colour triple and suit the
sensor otherwise (colour.py). Deviations: symmetries of the plane, because overhead images have no upright; boxes that
do not fit are cut, not drawn again.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.heads import projection_mlp
from rspretrain.nn.norm import synchronise_norms
from rspretrain.objectives.base import Losses, Objective
from rspretrain.objectives.colour import ColourSettings, rgb_view, sar_view, spectral_view
from rspretrain.objectives.contrastive import nt_xent, view_health
from rspretrain.objectives.views import (
    SensorInput,
    SensorSettings,
    finest_and_coarsest,
    random_resized_crop,
    with_symmetry,
)
from rspretrain.sensors import PREVIEW_BANDS, Group
from rspretrain.settings import Settings

# Units whose true-colour triple is worked on as colours in [0, 1], and the value that is 1.
_WHITE = {"grey": 255.0, "dn": 1e4}


class SimclrSettings(Settings):
    """One sensor, two random views."""

    name: Literal["simclr"] = "simclr"
    sensor: str = Field(description="which of the configured sensors")
    px: int = Field(gt=0, description="side of the views in pixels")
    temperature: float = Field(default=0.1, gt=0)
    scale: tuple[float, float] = Field(default=(0.2, 1.0), description="least and greatest share of the area in a view")
    symmetry: Literal["none", "horizontal", "dihedral"] = "dihedral"
    colour: ColourSettings = ColourSettings()


@final
class Simclr(Objective):
    """NT-Xent over two views of the samples of all ranks. ValueError where the sensor is not configured."""

    metric_names = ("loss/nt_xent", "health/feature_std", "health/effective_rank", "health/positive_cosine")
    couples_samples = True

    def __init__(
        self,
        settings: SimclrSettings,
        sensors: dict[str, SensorSettings],
        backbone: BackboneSettings,
        groups: Sequence[Group],
    ) -> None:
        super().__init__()
        self.settings, sensor = settings, settings.sensor
        if list(sensors) != [sensor]:
            raise ValueError(
                f"simclr trains one sensor: objective.sensor is {sensor!r}, and the configured sensors are "
                f"{list(sensors)}. Leave exactly {sensor!r} under `sensors`, or use the objective dual_simclr for two."
            )
        self.input = SensorInput(sensor, sensors[sensor], groups)
        self.groups = self.input.groups
        self.encoder = create_backbone(backbone, sensor, sensors[sensor].bands, settings.px)
        width = self.encoder.num_features
        self.head = projection_mlp((width, width, 128), norm=True)
        units = self.input.normalise.units
        self.white = _WHITE.get(units) if self.input.bands == PREVIEW_BANDS[sensor] else None
        synchronise_norms(self)

    def forward(self, batch: Batch) -> Losses:
        """Two views of B samples through one network at once, as in the reference; see Objective."""
        z1, z2 = self.head(self.encoder(torch.cat(self.views(batch)))).chunk(2)
        loss = nt_xent(z1, z2, self.settings.temperature)
        return Losses(loss, {"loss/nt_xent": loss.detach(), **view_health(z1, z2)})

    @torch.no_grad()
    def views(self, batch: Batch) -> list[Tensor]:
        """Two [B C px px] float32, normalised."""
        names = ("view0", "view1")
        with torch.autocast(batch.seeds.device.type, enabled=False):
            finest, _ = finest_and_coarsest([self.input], batch)
            geometries = []
            for name in names:
                boxes = random_resized_crop(batch.seeds, f"{name}/crop", finest, self.settings.scale)
                geometries.append(with_symmetry(boxes, batch.seeds, f"{name}/symmetry", self.settings.symmetry))
            raw = self.input.views(batch, geometries, self.settings.px)
            return [self._photometric(x, batch.seeds, name) for x, name in zip(raw, names, strict=True)]

    def _photometric(self, x: Tensor, seeds: Tensor, view: str) -> Tensor:
        """[B C px px] in units, clipped, to normalised and jittered."""
        colour, scale = self.settings.colour, self.input.normalise.scale
        if self.white is not None:  # colours have their own range; normalisation comes last
            return scale(rgb_view((x / self.white).clamp_(0.0, 1.0), seeds, view, colour) * self.white)
        return (sar_view if self.input.normalise.units == "db" else spectral_view)(scale(x), seeds, view, colour)

    def inputs(self) -> dict[str, SensorInput]:
        """See Objective."""
        return {self.input.sensor: self.input}

    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        return {self.input.sensor: self.encoder}
