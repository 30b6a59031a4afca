"""What a classifier sees of every sample: random windows and symmetries in training, none when it is examined."""

from collections.abc import Mapping
from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.settings import Settings
from rspretrain.transforms.crops import check_crop, random_resized_crop, random_window, with_symmetry
from rspretrain.transforms.inputs import SensorInput, evaluation_geometry, finest_and_coarsest
from rspretrain.transforms.resample import Geometry, full_geometry
from rspretrain.transforms.sensor_drop import drop_sensors


class TrainViewSettings(Settings):
    """How training samples are varied. The defaults are the eight symmetries of whole images, for overhead imagery."""

    crop_px: int | None = Field(
        default=None,
        gt=0,
        description="Side of a random window (the centre window in tests) in pixels of the finest grid. null:"
        " no window.",
    )
    px: int | None = Field(
        default=None,
        gt=0,
        description="Side of the network input in pixels, for convolutional backbones. null: the size that "
        "they were pretrained or built with.",
    )
    scale: tuple[float, float] = Field(
        default=(1.0, 1.0),
        description="Least and greatest share of the image area in a random resized crop. [1, 1]: whole images.",
    )
    symmetry: Literal["none", "horizontal", "flips", "dihedral"] = Field(
        default="dihedral",
        description="Random flips: none, horizontal, flips (horizontal and vertical), or dihedral (all eight "
        "flips and rotations by 90 degrees).",
    )
    independent: bool = Field(
        default=False, description="Draw crops and flips separately per sensor, as SCT Fusion does."
    )
    sensor_drop: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Probability of training without one of the sensors (RandomSensorDrop).",
    )

    @model_validator(mode="after")
    def _one_kind_of_crop(self) -> Self:
        low, high = self.scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"views.scale is {self.scale}, expected 0 < least <= greatest <= 1, such as [0.8, 1.0].")
        if self.crop_px is not None and low < 1.0:
            raise ValueError(
                f"views.crop_px {self.crop_px} and views.scale {self.scale} both cut windows, expected one of them. "
                "Leave one out."
            )
        return self


@final
class TrainViews(nn.Module):
    """Batch -> input name -> [B C px px] float32, normalised, without gradient. In training mode views are random."""

    def __init__(self, settings: TrainViewSettings, inputs: Mapping[str, SensorInput], px: Mapping[str, int]) -> None:
        """`px`: input name -> side of the network's input. ValueError where a window or a drop does not fit."""
        super().__init__()
        self.settings, self.px = settings, dict(px)
        self.inputs = nn.ModuleDict(dict(inputs))
        self.groups = tuple(dict.fromkeys(group for one in inputs.values() for group in one.groups))
        if settings.crop_px is not None:
            check_crop(settings.crop_px, [group for one in inputs.values() for group in one.sources])
        sensors = [one.sensor for one in inputs.values()]
        if settings.sensor_drop and (len(sensors) < 2 or len(set(sensors)) < len(sensors)):
            raise ValueError(
                f"views.sensor_drop: got {settings.sensor_drop} for the inputs {list(inputs)}, expected a classifier "
                "of several sensors, one input each. Set it to 0, or fuse sensors."
            )

    def sensor_inputs(self) -> dict[str, SensorInput]:
        """Input name -> how its pixels are read and scaled."""
        return dict(self.inputs.items())  # type: ignore[arg-type]

    @torch.no_grad()
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See the class."""
        with torch.autocast(batch.seeds.device.type, enabled=False):
            parts = self.sensor_inputs()
            if not self.training:
                geometry = self.window(batch)
                return {name: part(batch, geometry, self.px[name]) for name, part in parts.items()}
            finest, coarsest = finest_and_coarsest(list(parts.values()), batch)
            images = {}
            for name, part in parts.items():
                geometry = self._geometry(batch.seeds, part.sensor, finest, coarsest)
                images[name] = part(batch, geometry, self.px[name])
            if self.settings.sensor_drop:
                images = drop_sensors(images, batch.seeds, self.settings.sensor_drop)
            return images

    def window(self, batch: Batch) -> Geometry:
        """Where the one view of all sensors lies; in training mode not with `independent`, which has no such place."""
        parts = list(self.sensor_inputs().values())
        if not self.training:
            return evaluation_geometry(parts, batch, self.settings.crop_px)
        assert not self.settings.independent, "every sensor has a window of its own"
        return self._geometry(batch.seeds, parts[0].sensor, *finest_and_coarsest(parts, batch))

    def _geometry(self, seeds: Tensor, sensor: str, finest: Tensor, coarsest: Tensor) -> Geometry:
        """Where one sensor's random view lies."""
        settings, crop_px = self.settings, self.settings.crop_px
        view = f"train/{sensor}" if settings.independent else "train"
        boxes = full_geometry(len(seeds), seeds.device).boxes
        if crop_px is not None:
            boxes = random_window(seeds, f"{view}/crop", finest, coarsest, crop_px)
        elif settings.scale[0] < 1.0:
            boxes = random_resized_crop(seeds, f"{view}/crop", finest, settings.scale, (1.0, 1.0))
        return with_symmetry(boxes, seeds, f"{view}/symmetry", settings.symmetry)
