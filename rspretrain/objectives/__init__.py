"""Self-supervised methods: one file, one forward each."""

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
# The section `objective` of a configuration: the settings of the objective that `name` chooses.
ObjectiveSection = Annotated[ObjectiveSettings, SettingsByName(OBJECTIVES)]


def build_objective(
    settings: ObjectiveSettings,
    sensors: dict[str, SensorSettings],
    backbone: BackboneSettings,
    groups: Sequence[Group],
) -> Objective:
    """The objective that `settings.name` chooses, for a shard set with these groups. ValueError as its class says."""
    return OBJECTIVES.find(settings.name)(settings, sensors, backbone, groups)
