"""What students and teachers share is tried on each objective in its own tests; here the settings."""

import pytest

from rspretrain.objectives.byol import ByolSettings
from rspretrain.objectives.dino import DinoSettings
from rspretrain.objectives.gsc_mim import GscMimSettings
from rspretrain.objectives.moco_v3 import MocoV3Settings
from rspretrain.objectives.taught import TaughtSettings


@pytest.mark.parametrize(
    ("settings", "momentum", "export"),
    [
        (ByolSettings, 0.996, "student"),
        (MocoV3Settings, 0.99, "student"),
        (DinoSettings, 0.996, "teacher"),
        (GscMimSettings, 0.996, "teacher"),
    ],
)
def test_defaults_are_those_of_the_papers(settings, momentum, export):
    made = settings(px=32)
    assert isinstance(made, TaughtSettings)
    assert (made.fusion, made.momentum, made.momentum_end, made.export) == ("none", momentum, 1.0, export)
