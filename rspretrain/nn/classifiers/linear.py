"""Linear classifier on pooled features, for single sensors, early fusion and late fusion."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers.base import Classifier, ClassifierSettings, input_bands, input_px, stack_inputs
from rspretrain.nn.norm import synchronise_norms


class LinearSettings(ClassifierSettings):
    """One Linear on pooled features."""

    name: str = Field(default="linear", description="A linear layer on pooled features.")


@final
class LinearClassifier(Classifier):
    """One Linear on the concatenated pooled features of one or several backbones (docs/methods.md, Linear classifier).

    One backbone with one sensor: a single-sensor classifier. One backbone with several sensors, "s1+s2": early fusion.
    Several backbones: late fusion, concat(I1, I2) -> Linear(2D, K). None of the papers averages logits.
    """

    Settings = LinearSettings

    def __init__(
        self,
        settings: LinearSettings,
        backbones: Sequence[Backbone],
        num_classes: int,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`bands`: sensor -> its bands, required if a backbone has several sensors. ValueError as in `input_bands`."""
        super().__init__(input_bands(backbones, bands), input_px(backbones), num_classes)
        self.backbones.update({backbone.sensor: backbone for backbone in backbones})
        self.head = nn.Linear(sum(backbone.num_features for backbone in backbones), num_classes)
        synchronise_norms(self)

    def classify(self, images: dict[str, Tensor]) -> Tensor:
        """See Classifier."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: dict[str, Tensor]) -> Tensor:
        """Concatenated features [B D] of all backbones."""
        return torch.cat([one(stack_inputs(name, images)) for name, one in self.backbones.items()], dim=1)
