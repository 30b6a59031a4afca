"""Network input from a raw batch: the first and the last step of every transform.

In order: convert the selected bands to float32, clip, resample each pixel grid directly to the view (20 and 60 m bands
are upsampled bilinearly), put the bands in the configured order, scale.
"""

from collections.abc import Sequence
from typing import Annotated, final

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.sensors import BAND_ORDER, MEASURED, Group, Scaling, standard
from rspretrain.settings import Settings
from rspretrain.transforms.crops import centre_crop
from rspretrain.transforms.normalise import Normalise
from rspretrain.transforms.resample import Geometry, full_geometry, resample

ALL_BANDS = ("all",)  # of a sensor, as far as the shard set has them; resolved before a network is built


def _as_bands(given: object) -> object:
    return ALL_BANDS if given == "all" else given


class SensorSettings(Settings):
    """Bands and normalisation of one sensor."""

    bands: Annotated[tuple[str, ...], BeforeValidator(_as_bands)] = Field(
        min_length=1,
        description="Band names in the order of the backbone's input channels; or all: every band of the shard set, "
        "resolved and saved when the run starts.",
    )
    normalise: str = Field(
        default="fixed",
        description="fixed, hsg, bigearthnet or imagenet (tables of rspretrain.sensors), or measured: mean "
        "and standard deviation of the shard set.",
    )
    statistics: dict[str, tuple[float, float]] | None = Field(
        default=None,
        description="Band -> [mean, standard deviation] for normalise: measured. null: read from the shard set.",
    )

    def scalings(self) -> list[Scaling] | None:
        """The scalings from `statistics`, or None if `normalise` names a table. ValueError if a band has no entry."""
        if self.normalise != MEASURED:
            return None
        table = standard(self.statistics or {})
        if missing := [band for band in self.bands if band not in table]:
            raise ValueError(
                f"normalise is {MEASURED!r}, but bands {missing} have no statistics: got {sorted(table)}. "
                "Give them as statistics: {band: [mean, std]}, or choose another normalise."
            )
        return [table[band] for band in self.bands]


@final
class SensorInput(nn.Module):
    """From a Batch to one sensor's input [B C px px]. ValueError if the shard set lacks the sensor or a band."""

    def __init__(self, sensor: str, settings: SensorSettings, groups: Sequence[Group]) -> None:
        super().__init__()
        self.sensor, self.bands = sensor, settings.bands
        mine = [group for group in groups if group.sensor == sensor]
        check_bands(sensor, settings.bands, groups)
        # A band that several groups hold is read from the first of them.
        group_of = {band: group for group in reversed(mine) for band in group.bands}
        self.source_groups = [group for group in mine if any(group_of[band] is group for band in self.bands)]
        # Per group: the positions of its bands in `self.bands`, and their channels in the group's array.
        self.positions = [[i for i, b in enumerate(self.bands) if group_of[b] is group] for group in self.source_groups]
        self.channels = [
            [group.bands.index(self.bands[i]) for i in positions]
            for group, positions in zip(self.source_groups, self.positions, strict=True)
        ]
        self.groups: tuple[str, ...] = tuple(group.name for group in self.source_groups)
        self.normalise = Normalise(settings.normalise, self.bands, self.source_groups[0].units, settings.scalings())

    def shapes(self, batch: Batch) -> dict[str, Tensor]:
        """Group name -> [B 2] int64 height and width of the images on that grid; [1 2] if all are equal."""
        fixed = {name: torch.tensor([batch.images[name].shape[2:]], device=batch.seeds.device) for name in self.groups}
        return {name: batch.sizes.get(name, fixed[name]) for name in self.groups}

    def views(self, batch: Batch, geometries: Sequence[Geometry], px: int) -> list[Tensor]:
        """One [B C px px] float32 per geometry, in the sensor's units, clipped: everything but `normalise.scale`."""
        parts = []
        for group, positions, channels in zip(self.source_groups, self.positions, self.channels, strict=True):
            limits = (self.normalise.low[positions], self.normalise.high[positions]) if self.normalise.clips else None
            pixels = _select(batch.images[group.name], channels)
            parts.append(resample(pixels, geometries, px, batch.sizes.get(group.name), limits))
        if len(parts) == 1 and self.positions[0] == list(range(len(self.bands))):
            return parts[0]
        order = torch.tensor([position for positions in self.positions for position in positions]).argsort()
        return [torch.cat(grids, dim=1)[:, order.to(grids[0].device)] for grids in zip(*parts, strict=True)]

    def forward(self, batch: Batch, geometry: Geometry, px: int) -> Tensor:
        """[B C px px] float32, cropped and flipped by `geometry`, resized and normalised."""
        x: Tensor = self.normalise.scale(self.views(batch, [geometry], px)[0])
        return x


@final
class NetworkInput(nn.Module):
    """From a Batch to one network's input [B C px px]: the bands of one sensor, or of several sensors stacked."""

    def __init__(self, parts: Sequence[SensorInput]) -> None:
        super().__init__()
        self._parts = nn.ModuleList(parts)
        self.name = network_name([part.sensor for part in parts])
        self.groups: tuple[str, ...] = tuple(name for part in parts for name in part.groups)

    @property
    def parts(self) -> list[SensorInput]:
        """The input of each sensor, in channel order."""
        return list(self._parts)  # type: ignore[arg-type]

    @property
    def bands(self) -> tuple[str, ...]:
        """Band names in channel order."""
        return tuple(band for part in self.parts for band in part.bands)

    def normalisations(self) -> dict[str, Normalise]:
        """Sensor -> its normalisation, in channel order, as exports record it."""
        return {part.sensor: part.normalise for part in self.parts}

    def forward(self, batch: Batch, geometry: Geometry, px: int) -> Tensor:
        """[B C px px] float32, cropped and flipped by `geometry`, resized and normalised."""
        return stack_bands([part(batch, geometry, px) for part in self.parts])

    def evaluate(self, batch: Batch, px: int, crop_px: int | None = None) -> Tensor:
        """[B C px px] normalised, without augmentation: the whole image, or its centre crop of crop_px pixels."""
        with torch.no_grad(), torch.autocast(batch.seeds.device.type, enabled=False):
            return self.forward(batch, evaluation_geometry(self.parts, batch, crop_px), px)


def network_name(sensors: Sequence[str]) -> str:
    """Name of the network for these sensors: "s2", or "s1+s2" if their bands are stacked."""
    return "+".join(sensors)


def stack_bands(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate the sensors' [B C px px] along the channels."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _select(images: Tensor, channels: list[int]) -> Tensor:
    """Select channels of [B C H W]: a tensor view if they are contiguous, else a copy."""
    first = channels[0]
    if channels == list(range(first, first + len(channels))):
        return images[:, first : first + len(channels)]
    return torch.stack([images[:, channel] for channel in channels], dim=1)


def check_bands(sensor: str, bands: tuple[str, ...], groups: Sequence[Group]) -> None:
    """Raise ValueError if the groups of a shard set lack the sensor or a band, or if a band is listed twice."""
    mine = [group for group in groups if group.sensor == sensor]
    if not mine:
        raise ValueError(
            f"Sensor {sensor!r} is not in the shard set, which has {sorted({group.sensor for group in groups})}. "
            "Choose one of these, or build shards that contain it (`rspretrain build`)."
        )
    available = [band for group in mine for band in group.bands]
    missing = [band for band in bands if band not in available]
    if missing:
        raise ValueError(
            f"Bands {missing} of sensor {sensor!r} are not in the shard set: wanted {list(bands)}, available "
            f"{available}. Remove them from sensors.{sensor}.bands, or build shards that contain them."
        )
    if len(set(bands)) != len(bands):
        raise ValueError(f"sensors.{sensor}.bands has duplicates: got {list(bands)}. List every band once.")


def available_bands(sensor: str, groups: Sequence[Group]) -> tuple[str, ...]:
    """All bands of a sensor in canonical order; of an unknown instrument, in the order of the shard set."""
    present = dict.fromkeys(band for group in groups if group.sensor == sensor for band in group.bands)
    order = BAND_ORDER.get(sensor, tuple(present))
    return tuple(sorted(present, key=order.index))


def finest_and_coarsest(inputs: Sequence[SensorInput], batch: Batch) -> tuple[Tensor, Tensor]:
    """Height and width, [B 2] or [1 2], of every sample on the finest and on the coarsest grid that the inputs read."""
    shapes = torch.broadcast_tensors(*[shape for one in inputs for shape in one.shapes(batch).values()])
    stacked = torch.stack(shapes)
    return stacked.amax(dim=0), stacked.amin(dim=0)


def evaluation_geometry(inputs: Sequence[SensorInput], batch: Batch, crop_px: int | None) -> Geometry:
    """The whole images, or their central crop_px x crop_px pixels of the finest grid that the inputs read."""
    if crop_px is None:
        return full_geometry(len(batch), batch.seeds.device)
    return centre_crop(finest_and_coarsest(inputs, batch)[0], crop_px, len(batch))
