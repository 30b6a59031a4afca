"""BYOL: the student predicts the teacher's projection of another view. No negatives; ranks share only norm statistics.

Grill et al. 2020, eq. 2, and DeepMind's reference; docs/methods.md, BYOL. One student per sensor, or one for the
stacked bands of all (`fusion`); several students share only the crops of their views. Deviations: the teacher starts as
a copy of the student; the first layer of each head has no bias, because the norm after it would remove it; dropout and
stochastic depth are off in the teacher; brightness is multiplied instead of added; views are resampled bilinearly.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.ema import make_teacher
from rspretrain.nn.heads import projection_mlp
from rspretrain.nn.norm import synchronise_norms
from rspretrain.objectives.base import Losses, ObjectiveSettings, Progress, loss_names, mean_loss
from rspretrain.objectives.teacher_student import (
    TEACHER_STUDENT_HEALTH,
    TeacherStudent,
    TeacherStudentSettings,
    teacher_student_health,
)
from rspretrain.sensors import Group
from rspretrain.settings import AreaRange
from rspretrain.transforms.colour import FirstColour, SecondColour
from rspretrain.transforms.inputs import NetworkInput, SensorSettings
from rspretrain.transforms.views import SensorViews

CHANCE = 4.0  # the loss of independent directions, 2 in each direction


class ByolSettings(ObjectiveSettings, TeacherStudentSettings):
    """BYOL on any sensors: two random views and an EMA teacher."""

    name: str = Field(default="byol", description="BYOL: predict the teacher's output for another view.")
    scale: AreaRange = Field(
        default=(0.08, 1.0), description="Least and greatest share of the image area in a random resized crop."
    )
    first: FirstColour = Field(default=FirstColour(), description="Colours of the first view.")
    second: SecondColour = Field(default=SecondColour(), description="Colours of the second view.")
    hidden: int = Field(default=4096, gt=0, description="Width of the hidden layers of projector and predictor.")
    projection: int = Field(default=256, gt=0, description="Width of projections and predictions.")


@final
class Byol(TeacherStudent[ByolSettings]):
    """Two views, each predicted from the other. ValueError if the shard set lacks a sensor or a band."""

    Settings = ByolSettings
    couples_samples = False  # except through BatchNorm

    def __init__(
        self,
        settings: ByolSettings,
        sensors: dict[str, SensorSettings],
        backbone: BackboneSettings,
        groups: Sequence[Group],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.views = SensorViews(
            settings, {"view0": settings.first, "view1": settings.second}, sensors, groups, settings.fusion
        )
        self.groups, inputs = self.views.groups, self.views.inputs()
        self.student = nn.ModuleDict({name: self._student(one, backbone) for name, one in inputs.items()})
        self.predictor = nn.ModuleDict({name: self._head(settings.projection) for name in inputs})
        self.teacher = make_teacher(self.student)
        self.metric_names = (*loss_names("byol", inputs), *TEACHER_STUDENT_HEALTH)
        synchronise_norms(self)

    def _student(self, network_input: NetworkInput, backbone: BackboneSettings) -> nn.Module:
        encoder = create_backbone(backbone, network_input.name, network_input.bands, self.settings.px)
        return nn.Sequential(OrderedDict(encoder=encoder, projector=self._head(encoder.num_features)))

    def _head(self, width: int) -> nn.Module:
        return projection_mlp((width, self.settings.hidden, self.settings.projection), norm=True, last_bias=False)

    def prepare(self, progress: Progress) -> None:
        """Set the EMA momentum."""
        self._set_momentum(progress)

    def forward(self, batch: Batch) -> Losses:
        """See Objective. Each view is a separate forward, so norms see one distribution of colours."""
        losses, health = {}, []
        for name, views in self.views(batch).items():
            with torch.no_grad():
                target_a, target_b = (self.teacher[name](view) for view in views)  # [B 256]
            projected = [self.student[name](view) for view in views]
            a, b = (self.predictor[name](z) for z in projected)
            losses[name] = cosine_distance(a, target_b) + cosine_distance(b, target_a)
            if self.compute_health:
                health.append(teacher_student_health((target_a, target_b), projected))
        return mean_loss("byol", losses, health, CHANCE)


def cosine_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over samples of |p/|p| - z/|z||^2 = 2 - 2 cos(p, z), in [0, 4], float32 or better; p, z [B D] of any norm.

    The loss, over both directions, is in [0, 8] and 4 at random. Near 0 with health/feature_std near 0 is collapse.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        dtype = torch.promote_types(prediction.dtype, torch.float32)  # float64 stays, for tests
        difference = F.normalize(prediction.to(dtype), dim=1) - F.normalize(target.to(dtype), dim=1)
        return difference.square().sum(dim=1).mean()
