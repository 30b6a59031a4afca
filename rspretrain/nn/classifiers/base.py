"""Base class of classifiers: images of a sample, by sensor, to one logit per class.

At prediction, a missing sensor is replaced by zeros after normalisation, as in training with sensor drop
(transforms/train_views.py). With standardised bands, 0 is the band's mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone, frozen_modules
from rspretrain.registry import NamedSettings


class ClassifierSettings(NamedSettings):
    """The section `classifier` of a fine-tuning run; every classifier extends it by its own settings."""

    def own_inputs(self) -> dict[str, tuple[str, ...]] | None:
        """Input name -> bands, for classifiers without backbones. None: the inputs are those of the backbones."""
        return None


class Classifier(nn.Module, ABC):
    """Logits [B K] from input name -> [B C px px], normalised. Missing inputs are zeros; at least one is required.

    Inputs are named by sensor, or by group if a network takes each pixel grid of a sensor separately (K-Branch).
    `backbones`: networks that may be pretrained, by name; all other modules form the head.
    `lr_factors`: parameter name -> learning-rate factor relative to the head, set by nn/tuning.py.
    Subclasses take `(settings, backbones, num_classes, bands)`, as `build_classifier` passes them.
    """

    Settings: ClassVar[type[ClassifierSettings]] = ClassifierSettings
    head: nn.Module  # the last layers; active learning uses their input as the features of an image

    def __init__(self, bands: Mapping[str, Sequence[str]], px: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.bands = {name: tuple(some) for name, some in bands.items()}
        self.px = dict(px)
        self.num_classes = num_classes
        self.backbones = nn.ModuleDict()
        self.lr_factors: dict[str, float] = {}

    @final
    def lr_scales(self) -> dict[str, float]:
        """Parameter name -> factor on the learning rate; 1 for all others."""
        return dict(self.lr_factors)

    @final
    def train(self, mode: bool = True) -> Self:
        """Like torch's, but frozen modules of backbones stay in eval mode, without statistics updates and dropout."""
        super().train(mode)
        for backbone in self.backbones.values():
            for part in frozen_modules(backbone):  # type: ignore[arg-type]
                part.eval()
        return self

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """See the class. ValueError for a wrong shape, an unknown input, or no input."""
        return self.classify(self.fill_missing(images))

    @abstractmethod
    def classify(self, images: dict[str, Tensor]) -> Tensor:
        """Logits [B K] from all inputs [B C px px]."""

    @final
    def fill_missing(self, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All inputs in the order of `bands`, zeros for missing ones."""
        if unknown := [name for name in images if name not in self.bands]:
            raise ValueError(
                f"The classifier got images of {unknown}, expected some of {list(self.bands)}. Remove them, or build a "
                "classifier with these sensors."
            )
        if not images:
            raise ValueError(
                f"The classifier got images of no sensor, expected at least one of {list(self.bands)}. Give one of "
                "them; the others may be missing."
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
    """Sensors in a network's name: "s1+s2" has two, with bands stacked in this order."""
    return network.split("+")


def stack_inputs(network: str, images: Mapping[str, Tensor]) -> Tensor:
    """Concatenate the images [B C px px] of the network's sensors along the channels."""
    parts = [images[sensor] for sensor in sensors_of(network)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def input_px(backbones: Sequence[Backbone]) -> dict[str, int]:
    """Sensor -> side of its images in pixels."""
    return {sensor: backbone.px for backbone in backbones for sensor in sensors_of(backbone.sensor)}


def input_bands(
    backbones: Sequence[Backbone], bands: Mapping[str, Sequence[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Sensor -> bands, from the backbones if each has one sensor, else from `bands`, which must match them.

    ValueError if there is no backbone, a sensor is in two of them, or the bands differ from a backbone's channels.
    """
    sensors = list(chain.from_iterable(sensors_of(backbone.sensor) for backbone in backbones))
    if not sensors or len(set(sensors)) < len(sensors):
        raise ValueError(
            f"The classifier got backbones of {[backbone.sensor for backbone in backbones]}, expected at least one, "
            "and each sensor once. Give one backbone per sensor, or one for the stacked bands of all."
        )
    given = bands or {backbone.sensor: backbone.bands for backbone in backbones}
    found = {sensor: tuple(given.get(sensor, ())) for sensor in sensors}
    for backbone in backbones:
        stacked = tuple(chain.from_iterable(found[sensor] for sensor in sensors_of(backbone.sensor)))
        if stacked != tuple(backbone.bands) or not all(found.values()):
            raise ValueError(
                f"The backbone {backbone.sensor!r} has the channels {list(backbone.bands)}, got the bands by sensor "
                f"{ {sensor: list(some) for sensor, some in found.items()} }. Give the bands of each of its sensors, "
                "in channel order, as in `inputs` of its contract."
            )
    return found
