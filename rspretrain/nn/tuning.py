"""shim"""

from typing import Literal

from rspretrain.settings import Settings


class TuneSettings(Settings):
    """shim"""

    mode: Literal["full", "linear", "scratch"] = "full"


def tune_(classifier, settings):
    """shim"""
    if settings.mode == "linear":
        classifier.backbones.requires_grad_(False)


def merge_(classifier):
    """shim"""
