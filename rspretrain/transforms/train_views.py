"""Views for fine-tuning: random crops, flips and sensor drop in training; whole images or centre crops in evaluation.

RandomSensorDrop comes last and in training only: with a given probability one sensor of a sample, chosen uniformly, is
set to 0. It lets the network work with a missing sensor (Wang, Albrecht, Zhu 2022, DINO-MM; used by SCT Fusion). Of two
sensors at probability 1/2: 50 % both, 25 % each alone, never none. In DINO-MM 0 is "mean - 2 sigma" of 8-bit data;
after standardisation, as here, it is the band's mean, which no paper states (docs/methods.md, RandomSensorDrop).
"""

from collections.abc import Mapping
from typing import Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.rng_torch import uniform
from rspretrain.settings import Settings
from rspretrain.transforms.crops import check_crop, random_resized_crop, random_window, with_symmetry
from rspretrain.transforms.inputs import SensorInput, evaluation_geometry, finest_and_coarsest
from rspretrain.transforms.resample import Geometry, full_geometry


class TrainViewSettings(Settings):
    """Augmentation for fine-tuning. Default: whole images, randomly flipped and rotated, for overhead imagery."""

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
            raise ValueError(
                f"views.scale: got {self.scale}, expected 0 < min <= max <= 1. Set it to [0.8, 1.0], for example."
            )
        if self.crop_px is not None and low < 1.0:
            raise ValueError(
                f"views.crop_px {self.crop_px} and views.scale {self.scale} both crop, expected only one of them. "
                "Remove one."
            )
        return self


@final
class TrainViews(nn.Module):
    """From a Batch to input name -> [B C px px] float32, normalised, without gradient; random in training mode only."""

    def __init__(self, settings: TrainViewSettings, inputs: Mapping[str, SensorInput], px: Mapping[str, int]) -> None:
        """`px`: input name -> side of the network input.

        ValueError if crop_px exceeds the images, or sensor_drop is set without several sensors of one input each.
        """
        super().__init__()
        self.settings, self.px = settings, dict(px)
        self.inputs = nn.ModuleDict(dict(inputs))
        self.groups = tuple(dict.fromkeys(group for one in inputs.values() for group in one.groups))
        if settings.crop_px is not None:
            check_crop(settings.crop_px, [group for one in inputs.values() for group in one.source_groups])
        sensors = [one.sensor for one in inputs.values()]
        if settings.sensor_drop and (len(sensors) < 2 or len(set(sensors)) < len(sensors)):
            raise ValueError(
                f"views.sensor_drop: got {settings.sensor_drop} for the inputs {list(inputs)}, expected a classifier "
                "with several sensors and one input per sensor. Set it to 0, or use a fusion classifier."
            )

    def sensor_inputs(self) -> dict[str, SensorInput]:
        """Input name -> its SensorInput."""
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
        """The crop and flips that all sensors share; undefined in training mode with `independent`."""
        parts = list(self.sensor_inputs().values())
        if not self.training:
            return evaluation_geometry(parts, batch, self.settings.crop_px)
        assert not self.settings.independent, "every sensor has its own window"
        return self._geometry(batch.seeds, parts[0].sensor, *finest_and_coarsest(parts, batch))

    def _geometry(self, seeds: Tensor, sensor: str, finest: Tensor, coarsest: Tensor) -> Geometry:
        """Random crop and flips of one sensor."""
        settings, crop_px = self.settings, self.settings.crop_px
        view = f"train/{sensor}" if settings.independent else "train"
        boxes = full_geometry(len(seeds), seeds.device).boxes
        if crop_px is not None:
            boxes = random_window(seeds, f"{view}/crop", finest, coarsest, crop_px)
        elif settings.scale[0] < 1.0:
            boxes = random_resized_crop(seeds, f"{view}/crop", finest, settings.scale, (1.0, 1.0))
        return with_symmetry(boxes, seeds, f"{view}/symmetry", settings.symmetry)


def drop_sensors(
    images: Mapping[str, Tensor], seeds: Tensor, probability: float = 0.5, purpose: str = "sensor_drop"
) -> dict[str, Tensor]:
    """Set one sensor of a sample to 0 with this probability: sensor -> [B C px px] to the same. One sensor alone stays.

    `seeds` [B] int64: the draw depends on the sample's seed and on the number and order of the sensors.
    """
    dropped = dropped_sensor(seeds, len(images), probability, purpose)
    shape = (-1, *[1] * (next(iter(images.values())).dim() - 1))
    # masked_fill, not a product: 0 * NaN is NaN.
    return {name: x.masked_fill((dropped == n).view(shape), 0.0) for n, (name, x) in enumerate(images.items())}


def dropped_sensor(seeds: Tensor, num: int, probability: float = 0.5, purpose: str = "sensor_drop") -> Tensor:
    """[B] int64: index of the dropped sensor of `num`, -1 for none."""
    if num < 2:
        return torch.full_like(seeds, -1)
    u = uniform(seeds, purpose, (2,)).double()  # in float32, (1 - 2^-24) * 3 rounds to 3
    return torch.where(u[:, 0] < probability, torch.floor(u[:, 1] * num), -1.0).long()
