"""One random window for two sensors: the whole transform of Dual-SimCLR and MMA, from batch to network input.

Both methods use the two sensors as the two views of a location, so the shared crop is the only augmentation. Random
flips are available and off by default, as in the released code (docs/methods.md, Shared random
window).
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
    """Size of the shared window, for objectives that align two sensors."""

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
    """From a Batch to sensor -> [B C px px] float32, normalised, without gradient; both sensors show the same window.

    ValueError unless there are two sensors; if a sensor or a band is not in the shard set; if the window is too large.
    """

    def __init__(
        self, method: str, settings: WindowSettings, sensors: Mapping[str, SensorSettings], groups: Sequence[Group]
    ) -> None:
        super().__init__()
        if len(sensors) != 2:
            raise ValueError(
                f"{method} compares two sensors: got {len(sensors)}, {list(sensors)}. "
                "List two under `sensors`, or use the objective simclr for one."
            )
        self.settings, self.px = settings, settings.px or settings.crop_px
        self._inputs = nn.ModuleDict(
            {name: NetworkInput([SensorInput(name, s, groups)]) for name, s in sensors.items()}
        )
        self.groups = tuple(name for one in self.inputs().values() for name in one.groups)
        check_crop(settings.crop_px, [group for group in groups if group.name in self.groups])

    def inputs(self) -> dict[str, NetworkInput]:
        """Sensor -> its input; see Objective.inputs."""
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
