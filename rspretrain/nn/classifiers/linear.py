"""The plainest classifier: one Linear on pooled features. Single sensors, early fusion and late fusion are all this."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers.base import Classifier, ClassifierSettings, input_bands, input_px, stack_of
from rspretrain.nn.norm import synchronise_norms


class LinearSettings(ClassifierSettings):
    """One Linear on pooled features."""

    name: str = Field(default="linear", description="A linear layer on pooled features.")


@final
class LinearClassifier(Classifier):
    """The pooled features of one or several backbones, one behind the other, to one Linear (methods.md A.6, A.7).

    One backbone of one sensor: a single-sensor classifier (OnlySen-1, OnlySen-2). One of several sensors, "s1+s2":
    early fusion. Several: late fusion, concat(I1, I2) -> Linear(2D, K). The seeds name no mean of logits.
    """

    Settings = LinearSettings

    def __init__(
        self,
        settings: LinearSettings,
        backbones: Sequence[Backbone],
        num_classes: int,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`bands`: sensor -> its bands, needed where a backbone takes several; ValueError as `input_bands` says."""
        super().__init__(input_bands(backbones, bands), input_px(backbones), num_classes)
        self.backbones.update({backbone.sensor: backbone for backbone in backbones})
        self.head = nn.Linear(sum(backbone.num_features for backbone in backbones), num_classes)
        synchronise_norms(self)

    def classify(self, images: dict[str, Tensor]) -> Tensor:
        """See Classifier."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: dict[str, Tensor]) -> Tensor:
        """Every input to [B D], D over all backbones."""
        return torch.cat([one(stack_of(name, images)) for name, one in self.backbones.items()], dim=1)
