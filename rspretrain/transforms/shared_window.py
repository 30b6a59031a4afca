"""One random window of several sensors: the same place in all of them, which is the only augmentation of two methods.

Dual-SimCLR and MMA take their two sensors for two views (methods.md A.2), beside symmetries of the plane, which are off
as in the released code.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.sensors import Group
from rspretrain.settings import Settings
from rspretrain.transforms.crops import check_crop, random_window, with_symmetry
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings, finest_and_coarsest


class WindowSettings(Settings):
    """Where the window lies and how large it is; part of the settings of objectives that align sensors."""

    crop_px: int = Field(
        gt=0, description="Side of the random window shared by both sensors, in pixels of the finest grid in use."
    )
    px: int | None = Field(default=None, gt=0, description="Side of the network input in pixels. null: crop_px.")
    symmetry: Literal["none", "horizontal", "dihedral"] = Field(
        default="none",
        description="Random flips, the same for both sensors: none, horizontal, or dihedral (all eight flips "
        "and rotations by 90 degrees).",
    )


@final
class SharedWindow(nn.Module):
    """Batch -> sensor -> [B C px px] float32, normalised, without gradient, the same place of both.

    ValueError unless there are two sensors, where one or a band is not in the shard set, or the window is too large.
    """

    def __init__(
        self, method: str, settings: WindowSettings, sensors: Mapping[str, SensorSettings], groups: Sequence[Group]
    ) -> None:
        super().__init__()
        if len(sensors) != 2:
            raise ValueError(
                f"{method} compares two sensors: got {len(sensors)}, {list(sensors)}. "
                "Name two under `sensors`, or use the objective simclr for one."
            )
        self.settings, self.px = settings, settings.px or settings.crop_px
        self._inputs = nn.ModuleDict(
            {name: NetworkInput([SensorInput(name, s, groups)]) for name, s in sensors.items()}
        )
        self.groups = tuple(name for one in self.inputs().values() for name in one.groups)
        check_crop(settings.crop_px, [group for group in groups if group.name in self.groups])

    def inputs(self) -> dict[str, NetworkInput]:
        """Sensor -> its input; see Objective."""
        return dict(self._inputs.items())  # type: ignore[arg-type]

    @torch.no_grad()
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See the class."""
        with torch.autocast(batch.seeds.device.type, enabled=False):
            inputs = self.inputs()
            finest, coarsest = finest_and_coarsest([part for one in inputs.values() for part in one.parts], batch)
            boxes = random_window(batch.seeds, "window", finest, coarsest, self.settings.crop_px)
            geometry = with_symmetry(boxes, batch.seeds, "symmetry", self.settings.symmetry)
            return {name: one(batch, geometry, self.px) for name, one in inputs.items()}
