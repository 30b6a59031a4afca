"""From a batch of raw pixels to normalised views of one sensor, and where in the image the views lie.

Order of work: needed bands to float32, clip, resample every pixel grid straight to the view (so 20 and 60 m bands
are upsampled, bilinearly), put bands in the settings' order, scale. All choices are keyed by sample (design.md D4).
"""

from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.sensors import MEASURED, Group, Scaling, standard
from rspretrain.settings import Settings
from rspretrain.transforms.crops import centre_crop
from rspretrain.transforms.normalise import Normalise
from rspretrain.transforms.resample import Geometry, full_geometry, resample


class SensorSettings(Settings):
    """What of a sensor a backbone sees."""

    bands: tuple[str, ...] = Field(
        min_length=1, description="Band names in the order of the backbone's input channels."
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
        """The scalings of `statistics`; None where `normalise` names a table. ValueError where a band has none."""
        if self.normalise != MEASURED:
            return None
        table = standard(self.statistics or {})
        if missing := [band for band in self.bands if band not in table]:
            raise ValueError(
                f"normalise is {MEASURED!r}, but there are no statistics of bands {missing}, only of {sorted(table)}. "
                "Give them as statistics: {band: [mean, std]}, or choose another normalise."
            )
        return [table[band] for band in self.bands]


@final
class SensorInput(nn.Module):
    """From a Batch to one sensor's network input [B C px px]. ValueError where the shard set lacks sensor or bands."""

    def __init__(self, sensor: str, settings: SensorSettings, groups: Sequence[Group]) -> None:
        super().__init__()
        self.sensor, self.bands = sensor, settings.bands
        mine = [group for group in groups if group.sensor == sensor]
        _check_bands(sensor, settings.bands, mine, groups)
        # A band that several groups hold is read from the first of them.
        home = {band: group for group in reversed(mine) for band in group.bands}
        self.sources = [group for group in mine if any(home[band] is group for band in self.bands)]
        # group -> places of its bands in our order, and their channels in the group's array
        self.places = [[i for i, b in enumerate(self.bands) if home[b] is group] for group in self.sources]
        self.channels = [
            [group.bands.index(self.bands[i]) for i in places]
            for group, places in zip(self.sources, self.places, strict=True)
        ]
        self.groups: tuple[str, ...] = tuple(group.name for group in self.sources)
        self.normalise = Normalise(settings.normalise, self.bands, self.sources[0].units, settings.scalings())

    def shapes(self, batch: Batch) -> dict[str, Tensor]:
        """Group name -> [B 2] (or [1 2] where all are equal) int64 height and width of the images on that grid."""
        fixed = {name: torch.tensor([batch.images[name].shape[2:]], device=batch.seeds.device) for name in self.groups}
        return {name: batch.sizes.get(name, fixed[name]) for name in self.groups}

    def views(self, batch: Batch, geometries: Sequence[Geometry], px: int) -> list[Tensor]:
        """One [B C px px] float32 a geometry, in the sensor's units, clipped: everything but `normalise.scale`."""
        parts = []
        for group, places, channels in zip(self.sources, self.places, self.channels, strict=True):
            limits = (self.normalise.low[places], self.normalise.high[places]) if self.normalise.clips else None
            pixels = _select(batch.images[group.name], channels)
            parts.append(resample(pixels, geometries, px, batch.sizes.get(group.name), limits))
        if len(parts) == 1 and self.places[0] == list(range(len(self.bands))):
            return parts[0]
        order = torch.tensor([place for places in self.places for place in places]).argsort()
        return [torch.cat(grids, dim=1)[:, order.to(grids[0].device)] for grids in zip(*parts, strict=True)]

    def forward(self, batch: Batch, geometry: Geometry, px: int) -> Tensor:
        """[B C px px] float32 normalised, at the places that `geometry` says."""
        x: Tensor = self.normalise.scale(self.views(batch, [geometry], px)[0])
        return x


@final
class NetworkInput(nn.Module):
    """From a Batch to one network's input [B C px px]: the bands of one sensor, or of several one behind the other."""

    def __init__(self, parts: Sequence[SensorInput]) -> None:
        super().__init__()
        self._parts = nn.ModuleList(parts)
        self.name = network_name([part.sensor for part in parts])
        self.groups: tuple[str, ...] = tuple(name for part in parts for name in part.groups)

    @property
    def parts(self) -> list[SensorInput]:
        """Every sensor's share, in the order of the channels."""
        return list(self._parts)  # type: ignore[arg-type]

    @property
    def bands(self) -> tuple[str, ...]:
        """Band names in the order of the channels."""
        return tuple(band for part in self.parts for band in part.bands)

    def normalisations(self) -> dict[str, Normalise]:
        """Sensor -> its normalisation, in the order of the channels: what an export has to say."""
        return {part.sensor: part.normalise for part in self.parts}

    def forward(self, batch: Batch, geometry: Geometry, px: int) -> Tensor:
        """[B C px px] float32 normalised, at the places that `geometry` says."""
        return stack_bands([part(batch, geometry, px) for part in self.parts])

    def evaluate(self, batch: Batch, px: int, crop_px: int | None = None) -> Tensor:
        """[B C px px] normalised without any choice: the whole image, or its centre window of crop_px finest pixels."""
        with torch.no_grad(), torch.autocast(batch.seeds.device.type, enabled=False):
            return self.forward(batch, evaluation_geometry(self.parts, batch, crop_px), px)


def network_name(sensors: Sequence[str]) -> str:
    """What a network of these sensors is called: "s2", or "s1+s2" where their bands are stacked."""
    return "+".join(sensors)


def stack_bands(parts: Sequence[Tensor]) -> Tensor:
    """[B C px px] of every sensor, one behind the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def _select(images: Tensor, channels: list[int]) -> Tensor:
    """The channels of [B C H W]; a view where they are a range, else a copy."""
    first = channels[0]
    if channels == list(range(first, first + len(channels))):
        return images[:, first : first + len(channels)]
    return torch.stack([images[:, channel] for channel in channels], dim=1)


def _check_bands(sensor: str, bands: tuple[str, ...], mine: list[Group], groups: Sequence[Group]) -> None:
    if not mine:
        raise ValueError(
            f"Sensor {sensor!r} is not in the shard set, which has {sorted({group.sensor for group in groups})}. "
            "Take one of these, or build shards that hold it (shards/build.py)."
        )
    available = [band for group in mine for band in group.bands]
    missing = [band for band in bands if band not in available]
    if missing:
        raise ValueError(
            f"Bands {missing} of sensor {sensor!r} are not in the shard set: wanted {list(bands)}, available "
            f"{available}. Leave them out of sensors.{sensor}.bands, or build shards that hold them."
        )
    if len(set(bands)) != len(bands):
        raise ValueError(f"Bands of sensor {sensor!r} repeat: got {list(bands)}. Name every band once.")


def finest_and_coarsest(inputs: Sequence[SensorInput], batch: Batch) -> tuple[Tensor, Tensor]:
    """[B 2] (or [1 2]) height and width of every sample on its finest and on its coarsest needed grid."""
    shapes = torch.broadcast_tensors(*[shape for one in inputs for shape in one.shapes(batch).values()])
    stacked = torch.stack(shapes)
    return stacked.amax(dim=0), stacked.amin(dim=0)


def evaluation_geometry(inputs: Sequence[SensorInput], batch: Batch, crop_px: int | None) -> Geometry:
    """The whole images as they lie, or the middle crop_px x crop_px pixels of the finest grid that the inputs need."""
    if crop_px is None:
        return full_geometry(len(batch), batch.seeds.device)
    return centre_crop(finest_and_coarsest(inputs, batch)[0], crop_px, len(batch))
