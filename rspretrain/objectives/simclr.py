"""SimCLR: NT-Xent between two random views of each image of one sensor.

Chen et al. 2020; docs/methods.md, SimCLR. Photometric augmentation is SimCLR's for true-colour bands, else the one for
the sensor type (transforms/colour.py). Deviations: vertical flips and rotations, because overhead images have no
upright; crop boxes that do not fit are cut instead of redrawn; the last layer of the head has no BatchNorm, as in the
paper, but not as in the released code.
"""

from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field
from torch import Tensor

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.heads import projection_mlp
from rspretrain.nn.norm import synchronise_norms
from rspretrain.nn.two_stage_loss import TwoStageLoss
from rspretrain.objectives.base import CHANCE_RATIO, Losses, ObjectiveSettings, StaticObjective
from rspretrain.objectives.contrastive import VIEW_HEALTH, chance_level, nt_xent, view_health
from rspretrain.sensors import Group
from rspretrain.transforms.colour import ColourSettings
from rspretrain.transforms.inputs import NetworkInput, SensorSettings
from rspretrain.transforms.views import CropSettings, SensorViews


class SimclrSettings(ObjectiveSettings, CropSettings):
    """SimCLR on one sensor: two random views."""

    name: str = Field(default="simclr", description="SimCLR: contrast two views of one sensor.")
    sensor: str = Field(description="Name of the sensor, one of the section sensors.")
    temperature: float = Field(default=0.1, gt=0, description="Temperature of the softmax.")
    colour: ColourSettings = Field(default=ColourSettings(), description="Colours of both views.")
    norm: bool = Field(
        default=True,
        description="Use BatchNorm in the projection head, as in the paper; not with strategy.accumulate above 1.",
    )


@final
class Simclr(StaticObjective, TwoStageLoss):
    """NT-Xent between two views, over all ranks. ValueError unless exactly the one sensor is configured."""

    Settings = SimclrSettings
    metric_names = ("loss/nt_xent", CHANCE_RATIO, *VIEW_HEALTH)
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
                f"{list(sensors)}. Keep only {sensor!r} under `sensors`, or use the objective dual_simclr for two."
            )
        self.sensor_views = SensorViews(settings, {"view0": settings.colour, "view1": settings.colour}, sensors, groups)
        self.groups = self.sensor_views.groups
        self.encoder = create_backbone(backbone, sensor, sensors[sensor].bands, settings.px)
        width = self.encoder.num_features
        self.head = projection_mlp((width, width, 128), norm=settings.norm)
        synchronise_norms(self)

    def forward(self, batch: Batch) -> Losses:
        """See Objective."""
        return self.compute_loss(self.embed(batch))

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [2 B 128]; both views share a forward, as in the reference."""
        z: Tensor = self.head(self.encoder(torch.cat(self.views(batch))))
        return z.view(2, len(batch), -1)

    def compute_loss(self, embeddings: Tensor) -> Losses:
        """See TwoStageLoss."""
        z1, z2 = embeddings
        loss = nt_xent(z1, z2, self.settings.temperature)
        metrics = {"loss/nt_xent": loss.detach(), CHANCE_RATIO: loss.detach() / chance_level(len(z1))}
        return Losses(loss, metrics | (view_health(z1, z2) if self.compute_health else {}))

    def views(self, batch: Batch) -> list[Tensor]:
        """Two [B C px px] float32, normalised."""
        return self.sensor_views(batch)[self.encoder.sensor]  # type: ignore[no-any-return]

    def inputs(self) -> dict[str, NetworkInput]:
        """See Objective."""
        return self.sensor_views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        return {self.encoder.sensor: self.encoder}
