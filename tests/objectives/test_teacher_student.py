"""Settings and health metrics of objectives with teachers; their tests cover the rest."""

import pytest
import torch

from rspretrain.objectives.byol import ByolSettings
from rspretrain.objectives.dino import DinoSettings
from rspretrain.objectives.gsc_mim import GscMimSettings
from rspretrain.objectives.moco_v3 import MocoV3Settings
from rspretrain.objectives.teacher_student import (
    STUDENT_STD,
    TEACHER_STUDENT_HEALTH,
    TeacherStudentSettings,
    teacher_student_health,
)


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
    assert isinstance(made, TeacherStudentSettings)
    assert (made.fusion, made.momentum, made.momentum_end, made.export) == ("none", momentum, 1.0, export)


def test_health_has_the_teachers_metrics_and_the_smallest_spread_of_the_student():
    torch.manual_seed(0)
    spread, equal = torch.randn(64, 8), torch.ones(64, 8)
    found = teacher_student_health((spread, spread), (spread, equal))
    assert tuple(found) == TEACHER_STUDENT_HEALTH
    assert found[STUDENT_STD] < 1e-6
    assert found["health/feature_std"] > 0.9
    assert teacher_student_health((equal, equal), (spread, spread))[STUDENT_STD] > 0.9
