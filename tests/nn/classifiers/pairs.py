"""Classifiers for two sensors, early and late fusion, and images for them."""

import torch

from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.classifiers.linear import LinearClassifier, LinearSettings

S1, S2 = ("VV", "VH"), ("B04", "B03", "B02")
STACK = {"s1": S1, "s2": S2}


def resnet(sensor: str, bands: tuple[str, ...], px: int = 32) -> Backbone:
    return create_backbone(BackboneSettings(name="test_resnet"), sensor, bands, px)


def late() -> LinearClassifier:
    torch.manual_seed(0)
    return LinearClassifier(LinearSettings(), [resnet("s1", S1), resnet("s2", S2, 48)], 5)


def early() -> LinearClassifier:
    torch.manual_seed(0)
    return LinearClassifier(LinearSettings(), [resnet("s1+s2", S1 + S2)], 5, STACK)


def images(num: int = 3, s2_px: int = 48) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"s1": torch.randn(num, 2, 32, 32), "s2": torch.randn(num, 3, s2_px, s2_px)}


def early_images(num: int = 3) -> dict[str, torch.Tensor]:
    return images(num, 32)
