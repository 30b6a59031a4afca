"""Random views of every sensor of a batch, for all objectives that compare views or hide parts of one.

Where a view lies is one choice for all sensors of a sample, so that they show the same place; colours are each sensor's
own: SimCLR's where the bands are a true-colour triple, else what suits the sensor (colour.py). Views of sensors that
one network takes together (early fusion) come stacked, in the order of the configuration.
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

Fusion = Literal["none", "early"]  # one network a sensor, or one for the stacked bands of all

# Units whose true-colour triple is worked on as colours in [0, 1], and the value that is 1.
_WHITE = {"grey": 255.0, "dn": 1e4}


class CropSettings(Settings):
    """Where views lie and how large they are; part of the settings of every objective with random views."""

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
    """Batch -> network name -> one [B C px px] float32, normalised, for every view, without gradient."""

    def __init__(
        self,
        crop: CropSettings,
        views: Mapping[str, ColourSettings | None],
        sensors: Mapping[str, SensorSettings],
        groups: Sequence[Group],
        fusion: Fusion = "none",
        one_place: bool = False,
        crops: Mapping[str, CropSettings] | None = None,
    ) -> None:
        """`views`: name of every view -> its colours, None to leave them; the name is part of all its choices.

        With `one_place` all views lie where the first does, and differ in colour only. `crops`: those of views that
        have one of their own. ValueError where the shard set lacks a sensor or a band.
        """
        super().__init__()
        self.views = dict(views)
        self.crops = {view: (crops or {}).get(view, crop) for view in views}
        self.places = [next(iter(views)) if one_place else view for view in views]
        parts = [SensorInput(name, settings, groups) for name, settings in sensors.items()]
        together = [parts] if fusion == "early" else [[part] for part in parts]
        self._inputs = nn.ModuleDict({network_name([part.sensor for part in p]): NetworkInput(p) for p in together})
        self.groups = tuple(name for part in parts for name in part.groups)
        # A sensor alone needs no name of its own: its choices are those that runs of one sensor began with.
        self._own = {part.sensor: f"/{part.sensor}" if len(parts) > 1 else "" for part in parts}

    def inputs(self) -> dict[str, NetworkInput]:
        """Network name -> its input; see Objective."""
        return dict(self._inputs.items())  # type: ignore[arg-type]

    @torch.no_grad()
    def forward(self, batch: Batch) -> dict[str, list[Tensor]]:
        """See the class; views in the order of their names in the constructor."""
        with torch.autocast(batch.seeds.device.type, enabled=False):
            finest, _ = finest_and_coarsest([part for one in self.inputs().values() for part in one.parts], batch)
            places = zip(self.places, self.crops.values(), strict=True)
            geometries = [self._geometry(batch.seeds, place, crop, finest) for place, crop in places]
            return {name: self._of_network(one, batch, geometries) for name, one in self.inputs().items()}

    def _geometry(self, seeds: Tensor, view: str, crop: CropSettings, finest: Tensor) -> Geometry:
        boxes = random_resized_crop(seeds, f"{view}/crop", finest, crop.scale)
        return with_symmetry(boxes, seeds, f"{view}/symmetry", crop.symmetry)

    def _of_network(self, one: NetworkInput, batch: Batch, geometries: Sequence[Geometry]) -> list[Tensor]:
        sensors = [self._of_sensor(part, batch, geometries) for part in one.parts]
        return [stack_bands(views) for views in zip(*sensors, strict=True)]

    def _of_sensor(self, part: SensorInput, batch: Batch, geometries: Sequence[Geometry]) -> list[Tensor]:
        places = groupby(zip(geometries, self.crops.values(), strict=True), lambda place: place[1].px)
        raw = [x for px, some in places for x in part.views(batch, [geometry for geometry, _ in some], px)]
        named = zip(raw, self.views.items(), strict=True)
        return [photometric(part, x, batch.seeds, view + self._own[part.sensor], c) for x, (view, c) in named]


def photometric(sensor: SensorInput, x: Tensor, seeds: Tensor, view: str, colour: ColourSettings | None) -> Tensor:
    """x [B C px px] in the sensor's units, clipped, to normalised and, if `colour`, jittered as suits the sensor."""
    units, scale = sensor.normalise.units, sensor.normalise.scale
    if colour is None:
        return scale(x)
    if units in _WHITE and sensor.bands == PREVIEW_BANDS.get(sensor.sensor):
        # Colours have their own range; normalisation comes last.
        return scale(rgb_view((x / _WHITE[units]).clamp_(0.0, 1.0), seeds, view, colour) * _WHITE[units])
    return (sar_view if units == "db" else spectral_view)(scale(x), seeds, view, colour)
