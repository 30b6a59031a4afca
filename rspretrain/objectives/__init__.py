"""Self-supervised objectives, one per file. Each is a module whose forward maps a batch to a loss and metrics."""

from collections.abc import Sequence
from typing import Annotated

from rspretrain.nn.backbones import BackboneSettings
from rspretrain.objectives.base import Objective, ObjectiveSettings
from rspretrain.registry import Registry, SettingsByName
from rspretrain.sensors import Group
from rspretrain.transforms.inputs import SensorSettings

OBJECTIVES = Registry(
    "objective",
    Objective,  # type: ignore[type-abstract]
    {
        "byol": "rspretrain.objectives.byol:Byol",
        "dino": "rspretrain.objectives.dino:Dino",
        "dual_simclr": "rspretrain.objectives.dual_simclr:DualSimclr",
        "gsc_mim": "rspretrain.objectives.gsc_mim:GscMim",
        "mae": "rspretrain.objectives.mae:Mae",
        "mma": "rspretrain.objectives.mma:Mma",
        "moco_v3": "rspretrain.objectives.moco_v3:MocoV3",
        "simclr": "rspretrain.objectives.simclr:Simclr",
    },
)
# The section `objective` of a configuration: the settings of the objective with this `name`.
ObjectiveSection = Annotated[ObjectiveSettings, SettingsByName(OBJECTIVES)]


def build_objective(
    settings: ObjectiveSettings,
    sensors: dict[str, SensorSettings],
    backbone: BackboneSettings,
    groups: Sequence[Group],
) -> Objective:
    """Build the objective `settings.name` for a shard set with these groups. ValueError as in its class."""
    return OBJECTIVES.find(settings.name)(settings, sensors, backbone, groups)
