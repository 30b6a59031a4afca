"""MMA: feature maps of two sensors over the same area agree at every location, and differ from those of other areas.

Windsor et al. 2021, as ported to Sentinel-1 and -2 (docs/methods.md, MMA). The similarity of two maps of equal size is
the mean over locations of the cosine of their channels. InfoNCE compares every sample with all samples of the other
sensor.

Deviations: the map is the last one of a timm CNN before pooling, because the paper's small VGG is not in timm and an
export has to load with timm alone. The mean of the map is the exported feature, so the exported features are the
aligned ones. The paper's stride of 8 is `backbone.args: {output_stride: 8}` for ResNets. The paper takes the maximum
over offsets between two maps; maps of equal size have one offset, so it is the mean. A location whose channels are all
0 has no direction and does not count. The shipped configuration uses AdamW at 5e-4 for 256 pairs; the paper
uses Adam at 1e-5 for 10 to 20.
"""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, check_feature_map, create_backbone
from rspretrain.nn.norm import synchronise_norms
from rspretrain.objectives.base import CHANCE_RATIO, Losses, ObjectiveSettings, StaticObjective
from rspretrain.objectives.contrastive import VIEW_HEALTH, chance_level, nt_xent, view_health
from rspretrain.sensors import Group
from rspretrain.transforms.inputs import NetworkInput, SensorSettings
from rspretrain.transforms.shared_window import SharedWindow, WindowSettings


class MmaSettings(ObjectiveSettings, WindowSettings):
    """MMA on two sensors, aligned location by location."""

    name: str = Field(default="mma", description="MMA: contrast two sensors location by location.")
    temperature: float = Field(default=0.1, gt=0, description="Temperature of the softmax; 0.005 in Windsor's script.")
    channels: int | None = Field(
        default=None,
        gt=0,
        description="Channels of the compared maps, after a 1 x 1 convolution. All ranks gather B x channels "
        "x locations values. null: no convolution.",
    )


@final
class Mma(StaticObjective):
    """One CNN per sensor. ValueError unless exactly two sensors are configured and the backbone has a feature map."""

    Settings = MmaSettings
    metric_names = ("loss/mma", CHANCE_RATIO, *VIEW_HEALTH)
    couples_samples = True

    def __init__(
        self,
        settings: MmaSettings,
        sensors: dict[str, SensorSettings],
        backbone: BackboneSettings,
        groups: Sequence[Group],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.views = SharedWindow(settings.name, settings, sensors, groups)
        self.groups = self.views.groups
        self.encoders = nn.ModuleDict(
            {name: create_backbone(backbone, name, s.bands, self.views.px) for name, s in sensors.items()}
        )
        for encoder in self.backbones().values():
            check_feature_map(encoder)
        self.heads = nn.ModuleDict({name: self._head(b.num_features) for name, b in self.backbones().items()})
        synchronise_norms(self)

    def _head(self, width: int) -> nn.Module:
        return nn.Conv2d(width, self.settings.channels, 1) if self.settings.channels else nn.Identity()

    def forward(self, batch: Batch) -> Losses:
        """See Objective."""
        maps = [self.heads[name](self.encoders[name](view, pool=False)) for name, view in self.views(batch).items()]
        # n unit vectors concatenated have norm sqrt(n), so the cosine in NT-Xent is the mean of the n cosines.
        z1, z2 = (directions(one).flatten(1) for one in maps)
        loss = nt_xent(z1, z2, self.settings.temperature, "cross")
        health = view_health(*[one.detach().mean(dim=(2, 3)) for one in maps]) if self.compute_health else {}
        chance = loss.detach() / chance_level(len(z1), "cross")
        return Losses(loss, {"loss/mma": loss.detach(), CHANCE_RATIO: chance, **health})

    def inputs(self) -> dict[str, NetworkInput]:
        """See Objective."""
        return self.views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        return dict(self.encoders.items())  # type: ignore[arg-type]


def directions(maps: Tensor) -> Tensor:
    """Maps [B D h w] with channels normalised to length 1 at every location, in float32 or better."""
    with torch.autocast(maps.device.type, enabled=False):
        return F.normalize(maps.to(torch.promote_types(maps.dtype, torch.float32)), dim=1)
