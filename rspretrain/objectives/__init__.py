"""Self-supervised methods: one file, one forward each."""

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from rspretrain.nn.backbones import BackboneSettings
from rspretrain.objectives.base import Objective
from rspretrain.objectives.byol import Byol, ByolSettings
from rspretrain.objectives.dino import Dino, DinoSettings
from rspretrain.objectives.dual_simclr import DualSimclr, DualSimclrSettings
from rspretrain.objectives.gsc_mim import GscMim, GscMimSettings
from rspretrain.objectives.mae import Mae, MaeSettings
from rspretrain.objectives.mma import Mma, MmaSettings
from rspretrain.objectives.moco_v3 import MocoV3, MocoV3Settings
from rspretrain.objectives.simclr import Simclr, SimclrSettings
from rspretrain.sensors import Group
from rspretrain.settings import Settings
from rspretrain.transforms.inputs import SensorSettings

ObjectiveSettings = Annotated[
    ByolSettings
    | DinoSettings
    | DualSimclrSettings
    | GscMimSettings
    | MaeSettings
    | MmaSettings
    | MocoV3Settings
    | SimclrSettings,
    Field(discriminator="name"),
]
OBJECTIVES: dict[type[Settings], Callable[..., Objective]] = {
    ByolSettings: Byol,
    DinoSettings: Dino,
    DualSimclrSettings: DualSimclr,
    GscMimSettings: GscMim,
    MaeSettings: Mae,
    MmaSettings: Mma,
    MocoV3Settings: MocoV3,
    SimclrSettings: Simclr,
}


def build_objective(
    settings: Settings,
    sensors: dict[str, SensorSettings],
    backbone: BackboneSettings,
    groups: Sequence[Group],
) -> Objective:
    """The objective that the settings describe, for a shard set with these groups."""
    return OBJECTIVES[type(settings)](settings, sensors, backbone, groups)
