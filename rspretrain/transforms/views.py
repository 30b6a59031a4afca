"""Random views of every sensor of a batch: crop, resample, augment, normalise. Used by the self-supervised objectives.

All sensors of a sample share the crop and flips of a view, so they show the same area. Photometric augmentation is
drawn per sensor: SimCLR's for true-colour bands, else the one for the sensor type (colour.py). With early fusion one
network takes the bands of all sensors, stacked in the order of the configuration.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.sensors import PREVIEW_BANDS, Group
from rspretrain.settings import AreaRange, Settings
from rspretrain.transforms.colour import ColourSettings, rgb_view, sar_view, spectral_view
from rspretrain.transforms.crops import random_resized_crop, with_symmetry
from rspretrain.transforms.inputs import (
    NetworkInput,
    SensorInput,
    SensorSettings,
    finest_and_coarsest,
    network_name,
    stack_bands,
)
from rspretrain.transforms.resample import Geometry

Fusion = Literal["none", "early"]  # one network per sensor, or one for the stacked bands of all

# Units in which true-colour bands are augmented as RGB in [0, 1], and the value that maps to 1.
_WHITE_LEVEL = {"grey": 255.0, "dn": 1e4}


class CropSettings(Settings):
    """Random resized crop of a view, for every objective with random views."""

    px: int = Field(gt=0, description="Side of the views in pixels.")
    scale: AreaRange = Field(
        default=(0.2, 1.0), description="Least and greatest share of the image area in a random resized crop."
    )
    symmetry: Literal["none", "horizontal", "dihedral"] = Field(
        default="dihedral",
        description="Random flips: none, horizontal, or dihedral (all eight flips and rotations by 90 degrees).",
    )


@final
class SensorViews(nn.Module):
    """From a Batch to network name -> one [B C px px] float32 per view, normalised, without gradient."""

    def __init__(
        self,
        crop: CropSettings,
        views: Mapping[str, ColourSettings | None],
        sensors: Mapping[str, SensorSettings],
        groups: Sequence[Group],
        fusion: Fusion = "none",
        shared_crop: bool = False,
        crops: Mapping[str, CropSettings] | None = None,
    ) -> None:
        """`views`: name of every view -> its photometric augmentation, None for none; the name keys all its draws.

        With `shared_crop` all views use the crop of the first and differ in colour only. `crops`: view -> crop settings
        that replace `crop`. ValueError if the shard set lacks a sensor or a band.
        """
        super().__init__()
        self.views = dict(views)
        self.crops = {view: (crops or {}).get(view, crop) for view in views}
        self.crop_keys = [next(iter(views)) if shared_crop else view for view in views]
        parts = [SensorInput(name, settings, groups) for name, settings in sensors.items()]
        together = [parts] if fusion == "early" else [[part] for part in parts]
        self._inputs = nn.ModuleDict({network_name([part.sensor for part in p]): NetworkInput(p) for p in together})
        self.groups = tuple(name for part in parts for name in part.groups)
        # A single sensor has no suffix, so the draws of single-sensor runs stay as they were in older versions.
        self._suffix = {part.sensor: f"/{part.sensor}" if len(parts) > 1 else "" for part in parts}

    def inputs(self) -> dict[str, NetworkInput]:
        """Network name -> its input; see Objective.inputs."""
        return dict(self._inputs.items())  # type: ignore[arg-type]

    @torch.no_grad()
    def forward(self, batch: Batch) -> dict[str, list[Tensor]]:
        """See the class; views are in the order of the constructor's `views`."""
        with torch.autocast(batch.seeds.device.type, enabled=False):
            finest, _ = finest_and_coarsest([part for one in self.inputs().values() for part in one.parts], batch)
            keys = zip(self.crop_keys, self.crops.values(), strict=True)
            geometries = [self._geometry(batch.seeds, key, crop, finest) for key, crop in keys]
            return {name: self._of_network(one, batch, geometries) for name, one in self.inputs().items()}

    def _geometry(self, seeds: Tensor, key: str, crop: CropSettings, finest: Tensor) -> Geometry:
        boxes = random_resized_crop(seeds, f"{key}/crop", finest, crop.scale)
        return with_symmetry(boxes, seeds, f"{key}/symmetry", crop.symmetry)

    def _of_network(self, one: NetworkInput, batch: Batch, geometries: Sequence[Geometry]) -> list[Tensor]:
        sensors = [self._of_sensor(part, batch, geometries) for part in one.parts]
        return [stack_bands(views) for views in zip(*sensors, strict=True)]

    def _of_sensor(self, part: SensorInput, batch: Batch, geometries: Sequence[Geometry]) -> list[Tensor]:
        by_px = groupby(zip(geometries, self.crops.values(), strict=True), lambda pair: pair[1].px)
        raw = [x for px, pairs in by_px for x in part.views(batch, [geometry for geometry, _ in pairs], px)]
        named = zip(raw, self.views.items(), strict=True)
        return [photometric(part, x, batch.seeds, view + self._suffix[part.sensor], c) for x, (view, c) in named]


def photometric(sensor: SensorInput, x: Tensor, seeds: Tensor, view: str, colour: ColourSettings | None) -> Tensor:
    """Augment (if `colour`) and normalise x [B C px px], clipped and in the sensor's units, as the sensor requires."""
    units, scale = sensor.normalise.units, sensor.normalise.scale
    if colour is None:
        return scale(x)
    if units in _WHITE_LEVEL and sensor.bands == PREVIEW_BANDS.get(sensor.sensor):
        # RGB augmentation works on [0, 1]; normalisation comes last.
        white = _WHITE_LEVEL[units]
        return scale(rgb_view((x / white).clamp_(0.0, 1.0), seeds, view, colour) * white)
    return (sar_view if units == "db" else spectral_view)(scale(x), seeds, view, colour)
