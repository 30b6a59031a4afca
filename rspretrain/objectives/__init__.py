"""Self-supervised methods: one file, one forward each."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from rspretrain.nn.backbones import BackboneSettings
from rspretrain.objectives.base import Objective
from rspretrain.objectives.dual_simclr import DualSimclr, DualSimclrSettings
from rspretrain.objectives.simclr import Simclr, SimclrSettings
from rspretrain.objectives.views import SensorSettings
from rspretrain.sensors import Group

ObjectiveSettings = Annotated[DualSimclrSettings | SimclrSettings, Field(discriminator="name")]


def build_objective(
    settings: DualSimclrSettings | SimclrSettings,
    sensors: dict[str, SensorSettings],
    backbone: BackboneSettings,
    groups: Sequence[Group],
) -> Objective:
    """The objective that the settings describe, for a shard set with these groups."""
    if isinstance(settings, DualSimclrSettings):
        return DualSimclr(settings, sensors, backbone, groups)
    return Simclr(settings, sensors, backbone, groups)
