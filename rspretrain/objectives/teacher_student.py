"""Base class of objectives with EMA teachers: a student and a teacher per network, on random views.

One network per sensor, or one for the stacked bands of all (`fusion`). The EMA momentum follows a cosine over all steps
(docs/methods.md, EMA teachers).
"""

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar, cast, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone
from rspretrain.nn.ema import TeacherPair
from rspretrain.objectives.base import Objective, Progress
from rspretrain.objectives.contrastive import VIEW_HEALTH, view_health
from rspretrain.observe.health import feature_std
from rspretrain.schedules import cosine
from rspretrain.transforms.inputs import NetworkInput
from rspretrain.transforms.views import CropSettings, Fusion, SensorViews

STUDENT_STD = "health/student_std"
TEACHER_STUDENT_HEALTH = (*VIEW_HEALTH, STUDENT_STD)


class TeacherStudentSettings(CropSettings):
    """Settings of objectives with an EMA teacher."""

    fusion: Fusion = Field(
        default="none",
        description="none: one network per sensor; early: one network for the stacked bands of all sensors.",
    )
    momentum: float = Field(
        default=0.996,
        ge=0.0,
        le=1.0,
        description="Momentum of the teacher (exponential moving average) at the first step.",
    )
    momentum_end: float = Field(
        default=1.0, ge=0.0, le=1.0, description="Momentum of the teacher at the end of a cosine over all steps."
    )
    export: Literal["student", "teacher"] = Field(default="student", description="Network to export as the backbone.")


S = TypeVar("S", bound=TeacherStudentSettings)


class TeacherStudent(Objective, Generic[S]):
    """Subclasses create `student` and `teacher`: network name -> module with an attribute `encoder`."""

    settings: S
    views: SensorViews
    student: nn.ModuleDict
    teacher: nn.ModuleDict

    def _set_momentum(self, progress: Progress) -> None:
        """Set the EMA momentum, for `prepare`."""
        self.momentum = cosine(progress.step, progress.total_steps, self.settings.momentum, self.settings.momentum_end)

    @final
    def teachers(self) -> Sequence[TeacherPair]:
        """See Objective."""
        return (TeacherPair(self.student, self.teacher),)

    @final
    def inputs(self) -> dict[str, NetworkInput]:
        """See Objective."""
        return self.views.inputs()

    @final
    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        networks = self.student if self.settings.export == "student" else self.teacher
        return {name: cast(Backbone, network.encoder) for name, network in networks.items()}


def teacher_student_health(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> dict[str, Tensor]:
    """`view_health` of the teacher's two views [B D], and the smallest spread of the student's V views [B D].

    A teacher with momentum 0.9996 lags 2,500 steps behind; the student's spread shows its collapse at once.
    """
    return view_health(*teacher) | {STUDENT_STD: torch.stack([feature_std(view) for view in student]).amin()}
