"""DINO: the student's output for every view matches the teacher's centred and sharpened output for a global view.

Caron et al. 2021, algorithm 1, and its code; docs/methods.md, DINO. No negatives and no predictor. Two global views,
and `local_crops` small local views that only the student sees. One student per sensor, or one for the stacked bands of
all. Deviations: views are BYOL's, resampled bilinearly; the last layer is frozen by zero gradients (PrototypeHead);
heads have no BatchNorm, also with CNNs; the class token and learned position embeddings have no weight decay. ViTs need
`dynamic_img_size` for local views.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, cast, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone, patch_size
from rspretrain.nn.ema import make_teacher
from rspretrain.nn.heads import PrototypeHead
from rspretrain.nn.norm import synchronise_norms
from rspretrain.objectives.base import Losses, ObjectiveSettings, Progress, loss_names, mean_loss
from rspretrain.objectives.self_distillation import (
    TEACHER_HEALTH,
    Center,
    cross_entropy,
    global_means,
    teacher_health,
    teacher_probabilities,
    warmup_temperature,
)
from rspretrain.objectives.teacher_student import (
    TEACHER_STUDENT_HEALTH,
    TeacherStudent,
    TeacherStudentSettings,
    teacher_student_health,
)
from rspretrain.sensors import Group
from rspretrain.settings import AreaRange, Positive
from rspretrain.transforms.colour import FirstColour, SecondColour
from rspretrain.transforms.inputs import NetworkInput, SensorSettings
from rspretrain.transforms.views import CropSettings, SensorViews

# Features of student and teacher, and the teacher's targets; the worst value over sensors.
HEALTH = (*TEACHER_STUDENT_HEALTH, *TEACHER_HEALTH)


class LocalColour(FirstColour):
    """Local views, as in the paper: like the first global view, but blurred with probability 0.5."""

    blur: float = Field(default=0.5, ge=0.0, le=1.0, description="Probability of Gaussian blur; not for SAR.")


class DinoSettings(ObjectiveSettings, TeacherStudentSettings):
    """DINO on any sensors: two global views, optional local views and an EMA teacher."""

    name: str = Field(default="dino", description="DINO: self-distillation with global and local views.")
    scale: AreaRange = Field(
        default=(0.14, 1.0),
        description="Least and greatest share of the image area in a global view; [0.4, 1] with local views.",
    )
    local_crops: int = Field(default=0, ge=0, description="Number of local views; 8 or 10 in the paper's best results.")
    local_px: int = Field(default=96, gt=0, description="Side of the local views in pixels.")
    local_scale: AreaRange = Field(
        default=(0.05, 0.4), description="Least and greatest share of the image area in a local view."
    )
    first: FirstColour = Field(default=FirstColour(), description="Colours of the first global view.")
    second: SecondColour = Field(default=SecondColour(), description="Colours of the second global view.")
    local: LocalColour = Field(default=LocalColour(), description="Colours of the local views.")
    center_momentum: float = Field(
        default=0.9, ge=0.0, le=1.0, description="Momentum of the center of the teacher's outputs."
    )
    temperature: float = Field(default=0.1, gt=0.0, description="Temperature of the student.")
    teacher_temperature: tuple[Positive, Positive] = Field(
        default=(0.04, 0.07), description="First and last temperature of the teacher."
    )
    temperature_epochs: int = Field(
        default=30,
        ge=0,
        description="Length of the linear change from the first to the last teacher temperature, in epochs.",
    )
    hidden: int = Field(default=2048, gt=0, description="Width of the two hidden layers of the head.")
    bottleneck: int = Field(default=256, gt=0, description="Width of the bottleneck before the last layer of the head.")
    outputs: int = Field(default=65536, gt=1, description="Number of prototypes K, the outputs of the head.")
    norm_last_layer: bool = Field(
        default=True, description="true: prototypes have length 1; false: their lengths are learned."
    )
    frozen_epochs: float = Field(
        default=1.0, ge=0.0, description="Time during which the last layer of the head is frozen, in epochs."
    )
    export: Literal["student", "teacher"] = Field(default="teacher", description="Network to export as the backbone.")


@final
class Dino(TeacherStudent[DinoSettings]):
    """ValueError if the shard set lacks a sensor or band, or the backbone does not support the size of local views."""

    Settings = DinoSettings
    couples_samples = True  # through the center, which is updated once per forward

    def __init__(
        self,
        settings: DinoSettings,
        sensors: dict[str, SensorSettings],
        backbone: BackboneSettings,
        groups: Sequence[Group],
    ) -> None:
        super().__init__()
        self.settings = settings
        local = [f"local{i}" for i in range(settings.local_crops)]
        small = CropSettings(px=settings.local_px, scale=settings.local_scale, symmetry=settings.symmetry)
        colours = {"view0": settings.first, "view1": settings.second, **dict.fromkeys(local, settings.local)}
        self.views = SensorViews(settings, colours, sensors, groups, settings.fusion, crops=dict.fromkeys(local, small))
        self.groups, inputs = self.views.groups, self.views.inputs()
        self.student = nn.ModuleDict({name: self._student(one, backbone) for name, one in inputs.items()})
        self.teacher = make_teacher(self.student)
        self.centers = nn.ModuleDict({name: Center(settings.outputs, settings.center_momentum) for name in inputs})
        self.metric_names = (*loss_names("dino", inputs), *HEALTH)
        synchronise_norms(self)
        self.prepare(Progress(0, 1, 1))

    def _student(self, network_input: NetworkInput, backbone: BackboneSettings) -> nn.Module:
        settings = self.settings
        encoder = create_backbone(backbone, network_input.name, network_input.bands, settings.px)
        if settings.local_crops:
            check_local_views(encoder, settings.local_px)
        learned = not settings.norm_last_layer
        head = PrototypeHead(encoder.num_features, settings.hidden, settings.bottleneck, settings.outputs, learned)
        return nn.Sequential(OrderedDict(encoder=encoder, head=head))

    def prepare(self, progress: Progress) -> None:
        """Set EMA momentum, teacher temperature, and whether the prototypes are frozen."""
        settings = self.settings
        self._set_momentum(progress)
        first, last = settings.teacher_temperature
        self.teacher_temperature = warmup_temperature(progress.epoch, settings.temperature_epochs, first, last)
        for network in self.student.values():
            cast(Any, network).head.frozen = progress.epoch < settings.frozen_epochs

    def forward(self, batch: Batch) -> Losses:
        """See Objective. Views of the same size share a forward, as in the reference."""
        losses, health = {}, []
        for name, views in self.views(batch).items():
            features, targets = self._teacher_targets(name, torch.cat(views[:2]))  # [2B D], [2B K]
            student: Any = self.student[name]
            encoded = [student.encoder(torch.cat(group)) for group in (views[:2], views[2:]) if group]
            outputs = student.head(torch.cat(encoded))  # [VB K]
            shape = (-1, len(batch))
            losses[name] = dino_loss(
                targets.unflatten(0, shape), outputs.unflatten(0, shape), self.settings.temperature
            )
            if self.compute_health:
                of_targets = teacher_health(targets, cast(Center, self.centers[name]), self.teacher_temperature)
                health.append(teacher_student_health(features.chunk(2), encoded[0].chunk(2)) | of_targets)
        return mean_loss("dino", losses, health, math.log(self.settings.outputs))

    @torch.no_grad()
    def _teacher_targets(self, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's features and targets for global views [2B C px px]. Then the center is updated, over all ranks.

        From the mean direction: the last layer is linear, so ranks exchange 256 numbers instead of 65,536.
        """
        teacher, center = cast(Any, self.teacher[name]), cast(Center, self.centers[name])
        features = teacher.encoder(x)
        directions = teacher.head.directions(features)
        targets = teacher_probabilities(teacher.head.outputs(directions), center.value, self.teacher_temperature)
        with torch.autocast(x.device.type, enabled=False):
            center.update_(teacher.head.outputs(global_means([directions]))[0])
        return features, targets


def dino_loss(targets: Tensor, outputs: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over pairs of different views: targets [2 B K] of the global views, outputs [V B K] of all.

    Cross-entropy is linear in the target, so each view needs one target: that of the other global view, or the sum of
    both for a local view.
    """
    both = targets.sum(dim=0, keepdim=True)
    others = torch.cat([targets.flip(0), both.expand(len(outputs) - 2, -1, -1)])  # [V B K]
    rows = cross_entropy(others.flatten(0, 1), outputs.flatten(0, 1), temperature)
    return rows.mean() * len(outputs) / (2 * len(outputs) - 2)


def check_local_views(encoder: Backbone, px: int) -> None:
    """Raise ValueError if the backbone does not support a second input size of `px` pixels."""
    if not (encoder.is_convolutional or encoder.model_args.get("dynamic_img_size")):
        raise ValueError(
            f"Local views of {px} pixels and global views of {encoder.px}: backbone {encoder.architecture!r} has a "
            "fixed input size, expected one for several sizes. Set backbone.args.dynamic_img_size=true (ViTs), or "
            "objective.local_crops=0."
        )
    patch = patch_size(encoder.architecture, encoder.model_args)
    if patch and px % patch:
        raise ValueError(
            f"Backbone {encoder.architecture!r} has patches of {patch} pixels, but local_px={px} is not a multiple of "
            f"{patch}. Set objective.local_px to {max(px // patch, 1) * patch}."
        )
