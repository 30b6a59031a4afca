"""BYOL: the student predicts what its teacher sees in another view. No negatives: ranks share norm statistics only.

Grill et al. 2020, eq. 2, and DeepMind's reference; methods.md B. One student a sensor, or one for the stacked bands of
all (`fusion`); several students share the places of their views and nothing else. Deviations: the teacher starts as a
copy; the first layer of each head has no bias, because a norm follows that would remove it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.ema import TeacherPair, make_teacher
from rspretrain.nn.heads import projection_mlp
from rspretrain.nn.norm import synchronise_norms
from rspretrain.objectives.augment import CropSettings, Fusion, SensorViews
from rspretrain.objectives.base import CHANCE_RATIO, Losses, Objective, Progress
from rspretrain.objectives.colour import ColourSettings
from rspretrain.objectives.contrastive import VIEW_HEALTH, view_health
from rspretrain.objectives.networks import loss_names, mean_loss
from rspretrain.objectives.views import NetworkInput, SensorSettings
from rspretrain.schedules import cosine
from rspretrain.sensors import Group

CHANCE = 4.0  # the loss of directions that know nothing of each other, both ways


class FirstColour(ColourSettings):
    """The paper's distribution A: 0.4, 0.4, 0.2, 0.1 for brightness, contrast, saturation, hue; always blurred."""

    saturation: float = Field(default=0.4, ge=0.0, description="greatest change of the factor at strength 1, RGB only")
    blur: float = Field(default=1.0, ge=0.0, le=1.0, description="probability of Gaussian blur, not for SAR")


class SecondColour(FirstColour):
    """The paper's distribution A': as A, but rarely blurred and sometimes solarised."""

    blur: float = Field(default=0.1, ge=0.0, le=1.0, description="probability of Gaussian blur, not for SAR")
    solarise: float = Field(default=0.2, ge=0.0, le=1.0, description="probability of solarisation at 0.5, RGB only")


class ByolSettings(CropSettings):
    """Any sensors, two random views, a teacher."""

    name: Literal["byol"] = "byol"
    scale: tuple[float, float] = Field(default=(0.08, 1.0), description="least and greatest share of the area")
    fusion: Fusion = Field(default="none", description="none: one network a sensor; early: one for all bands, stacked")
    first: FirstColour = Field(default=FirstColour(), description="colours of the first view")
    second: SecondColour = Field(default=SecondColour(), description="colours of the second view")
    momentum: float = Field(default=0.996, ge=0.0, le=1.0, description="of the teacher's first update (methods.md B.4)")
    momentum_end: float = Field(default=1.0, ge=0.0, le=1.0, description="what it goes to by a cosine over all steps")
    hidden: int = Field(default=4096, gt=0, description="width of the hidden layer of projector and predictor")
    projection: int = Field(default=256, gt=0, description="width of projections and predictions")
    export: Literal["student", "teacher"] = Field(default="student", description="whose backbone the run exports")


@final
class Byol(Objective):
    """Two views, each predicted from the other. ValueError where the shard set lacks a sensor or a band."""

    couples_samples = False  # but BatchNorm does

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
        self.metric_names = (*loss_names("byol", inputs), CHANCE_RATIO, *VIEW_HEALTH)
        synchronise_norms(self)

    def _student(self, network_input: NetworkInput, backbone: BackboneSettings) -> nn.Module:
        encoder = create_backbone(backbone, network_input.name, network_input.bands, self.settings.px)
        return nn.Sequential(OrderedDict(encoder=encoder, projector=self._head(encoder.num_features)))

    def _head(self, width: int) -> nn.Module:
        return projection_mlp((width, self.settings.hidden, self.settings.projection), norm=True, last_bias=False)

    def prepare(self, progress: Progress) -> None:
        """The teacher follows ever more slowly; see Objective."""
        self.momentum = cosine(progress.step, progress.total_steps, self.settings.momentum, self.settings.momentum_end)

    def teachers(self) -> Sequence[TeacherPair]:
        """See Objective."""
        return (TeacherPair(self.student, self.teacher),)

    def forward(self, batch: Batch) -> Losses:
        """Each view of B samples by itself, so that norms see one distribution of colours; see Objective."""
        losses, health = {}, []
        for name, views in self.views(batch).items():
            with torch.no_grad():
                target_a, target_b = (self.teacher[name](view) for view in views)  # [B 256]
            a, b = (self.predictor[name](self.student[name](view)) for view in views)
            losses[name] = distance(a, target_b) + distance(b, target_a)
            health.append(view_health(target_a, target_b))
        mean = mean_loss("byol", losses, health)  # health of the teacher
        return Losses(mean.loss, {**mean.metrics, CHANCE_RATIO: mean.loss.detach() / CHANCE})

    def inputs(self) -> dict[str, NetworkInput]:
        """See Objective."""
        return self.views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        networks = self.student if self.settings.export == "student" else self.teacher
        return {name: network.encoder for name, network in networks.items()}  # type: ignore[misc]


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over samples of |p/|p| - z/|z||^2 = 2 - 2 cos(p, z), 0 to 4, in float32 or better; p, z [B D] of any length.

    Both directions make a loss of 0 to 8, 4 at random. Near 0 with health/feature_std near 0 is collapse, not success.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        dtype = torch.promote_types(prediction.dtype, torch.float32)  # float64 stays, for tests
        apart = F.normalize(prediction.to(dtype), dim=1) - F.normalize(target.to(dtype), dim=1)
        return apart.square().sum(dim=1).mean()
