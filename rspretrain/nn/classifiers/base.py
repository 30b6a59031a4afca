"""From the images of one place, by sensor, to a logit for every class.

A sensor that is missing when somebody predicts is one whose pixels are all 0 after normalisation, which is what
`drop_sensors` shows a network in training. With standardised bands that is the band's mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone, frozen_parts
from rspretrain.registry import NamedSettings


class ClassifierSettings(NamedSettings):
    """The section `classifier` of a fine-tuning run; every classifier extends it by its own settings."""

    def own_inputs(self) -> dict[str, tuple[str, ...]] | None:
        """Input -> its bands, of a classifier without backbones. None: the inputs are those of the backbones."""
        return None


class Classifier(nn.Module, ABC):
    """Name of an input -> [B C px px], normalised, to logits [B K]; an absent input is zeros, all absent an error.

    Names are sensors', or those of one sensor's groups where a network takes every pixel grid by itself (K-Branch).
    `backbones` holds the networks that may have been pretrained, by name; whatever else there is, is the head.
    A subclass is constructed with `(settings, backbones, num_classes, bands)`, as `build_classifier` passes them.
    `lr_factors`, which nn/tuning.py sets, has the parameters by name that have another learning rate than the head.
    """

    Settings: ClassVar[type[ClassifierSettings]] = ClassifierSettings
    head: nn.Module  # the last layer or layers; active learning takes its input as the features of an image

    def __init__(self, bands: Mapping[str, Sequence[str]], px: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.bands = {name: tuple(some) for name, some in bands.items()}
        self.px = dict(px)
        self.num_classes = num_classes
        self.backbones = nn.ModuleDict()
        self.lr_factors: dict[str, float] = {}

    @final
    def lr_scales(self) -> dict[str, float]:
        """Name of a parameter -> factor on the learning rate; absent ones have 1."""
        return dict(self.lr_factors)

    @final
    def train(self, mode: bool = True) -> Self:
        """As in torch, but frozen parts of backbones stay in eval mode: their statistics and drops are frozen, too."""
        super().train(mode)
        for backbone in self.backbones.values():
            for part in frozen_parts(backbone):  # type: ignore[arg-type]
                part.eval()
        return self

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """See the class. ValueError where an image is of another shape, of no input, or there is none at all."""
        return self.classify(self.complete(images))

    @abstractmethod
    def classify(self, images: dict[str, Tensor]) -> Tensor:
        """Every input [B C px px] to logits [B K]."""

    @final
    def complete(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every input in the order of `bands`, zeros where it is absent."""
        if unknown := [name for name in images if name not in self.bands]:
            raise ValueError(
                f"The classifier got images of {unknown}, expected some of {list(self.bands)}. Leave them out, or "
                "build a classifier that has these sensors."
            )
        if not images:
            raise ValueError(
                f"The classifier got images of no sensor, expected at least one of {list(self.bands)}. Give one of "
                "them; only others may be missing."
            )
        given = next(iter(images.values()))
        shapes = {name: (len(given), len(bands), self.px[name], self.px[name]) for name, bands in self.bands.items()}
        for name, x in images.items():
            if x.shape != shapes[name]:
                raise ValueError(
                    f"Images of {name!r} have shape {list(x.shape)}, expected {list(shapes[name])} for bands "
                    f"{list(self.bands[name])}. Resample them to px={self.px[name]} with these bands in this order."
                )
        return {name: images[name] if name in images else given.new_zeros(shape) for name, shape in shapes.items()}


def sensors_of(network: str) -> list[str]:
    """The sensors of a network by its name: "s1+s2" has two, whose bands are stacked in this order."""
    return network.split("+")


def stack_of(network: str, images: Mapping[str, Tensor]) -> Tensor:
    """[B C px px] of the network's sensors, one behind the other."""
    parts = [images[sensor] for sensor in sensors_of(network)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def input_px(backbones: Sequence[Backbone]) -> dict[str, int]:
    """Sensor -> side of its images in pixels."""
    return {sensor: backbone.px for backbone in backbones for sensor in sensors_of(backbone.sensor)}


def input_bands(
    backbones: Sequence[Backbone], bands: Mapping[str, Sequence[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Sensor -> bands, from the backbones where each has one sensor, else from `bands`, which must agree with them.

    ValueError where there is no backbone, a sensor is in two of them, or the bands are not a backbone's channels.
    """
    sensors = list(chain.from_iterable(sensors_of(backbone.sensor) for backbone in backbones))
    if not sensors or len(set(sensors)) < len(sensors):
        raise ValueError(
            f"The classifier got backbones of {[backbone.sensor for backbone in backbones]}, expected at least one, "
            "and every sensor in one of them. Give one backbone for each sensor, or one for the stack of all."
        )
    given = bands or {backbone.sensor: backbone.bands for backbone in backbones}
    found = {sensor: tuple(given.get(sensor, ())) for sensor in sensors}
    for backbone in backbones:
        stacked = tuple(chain.from_iterable(found[sensor] for sensor in sensors_of(backbone.sensor)))
        if stacked != tuple(backbone.bands) or not all(found.values()):
            raise ValueError(
                f"The backbone {backbone.sensor!r} has the channels {list(backbone.bands)}, the bands by sensor are "
                f"{ {sensor: list(some) for sensor, some in found.items()} }. Give the bands of each of its sensors, "
                "in the order of its channels, as its contract's `inputs` list them."
            )
    return found
