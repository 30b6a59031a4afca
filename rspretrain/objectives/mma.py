"""MMA: the maps of two sensors over one place agree at every location, and with no other place's map.

Windsor et al. 2021 as ported to Sentinel-1 and -2 (methods.md A.6, A.4): the similarity of two maps of one size is the
mean over locations of the cosine of their channels, and InfoNCE compares every place with all of the other sensor.

The map is that of a timm CNN before it is pooled, not of the paper's small VGG, which timm does not have: an export
must load with timm alone (design.md D10), and this way what is aligned is what is exported, because the mean of the map
is its feature. The paper's stride of 8 is `backbone.args: {output_stride: 8}` for ResNets. A location whose channels
are all 0 has no direction and counts in no mean.
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
    """Two sensors, aligned location by location."""

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
    """One CNN a sensor. ValueError unless exactly two sensors are configured and the backbone has maps."""

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
        """One window of B places in both sensors; see Objective."""
        maps = [self.heads[name](self.encoders[name](view, pool=False)) for name, view in self.views(batch).items()]
        # Rows of unit length at each of the n locations have length sqrt(n): NT-Xent's cosine is the mean of cosines.
        z1, z2 = (directions(one).flatten(1) for one in maps)
        loss = nt_xent(z1, z2, self.settings.temperature, "cross")
        health = view_health(*[one.detach().mean(dim=(2, 3)) for one in maps]) if self.is_watched else {}
        chance = loss.detach() / chance_level(len(z1), "cross")
        return Losses(loss, {"loss/mma": loss.detach(), CHANCE_RATIO: chance, **health})

    def inputs(self) -> dict[str, NetworkInput]:
        """See Objective."""
        return self.views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        return dict(self.encoders.items())  # type: ignore[arg-type]


def directions(maps: Tensor) -> Tensor:
    """[B D h w] with channels of length 1 at every location, in float32 or better."""
    with torch.autocast(maps.device.type, enabled=False):
        return F.normalize(maps.to(torch.promote_types(maps.dtype, torch.float32)), dim=1)
