"""GSC-MIM: the student sees two views with complementary masks and predicts the teacher's tokens of the whole views.

Patch tokens predict the masked patches of their own view, the class token predicts that of the other view. From the
paper (doi 10.3389/fevo.2022.1083801), and from iBOT's code where it is silent; docs/methods.md, GSC-MIM. Deviations:
masks are drawn per image, and an image with r = 0 has no mask in either view; views are resampled bilinearly; the last
layer is frozen by zero gradients (PrototypeHead).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, cast, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.ema import make_teacher
from rspretrain.nn.heads import PrototypeHead
from rspretrain.nn.tokens import MaskedViT
from rspretrain.objectives.base import CHANCE_RATIO, Losses, ObjectiveSettings, Progress, worst_values
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
from rspretrain.transforms.colour import ColourSettings, FirstColour, SecondColour
from rspretrain.transforms.inputs import NetworkInput, SensorSettings
from rspretrain.transforms.masking import MaskShape, complementary_masks, draw_masks
from rspretrain.transforms.views import SensorViews

# Class tokens of student and teacher, and the teacher's targets; the worst value over networks.
HEALTH = (*TEACHER_STUDENT_HEALTH, *TEACHER_HEALTH)


class GscMimSettings(ObjectiveSettings, TeacherStudentSettings):
    """GSC-MIM on any sensors: two views with complementary masks and an EMA teacher; requires a ViT."""

    name: str = Field(
        default="gsc_mim",
        description="GSC-MIM: masked self-distillation with complementary masks; the backbone is a ViT.",
    )
    scale: AreaRange = Field(default=(0.14, 1.0), description="Least and greatest share of the image area in a view.")
    photometric: Literal["none", "ibot"] = Field(
        default="none", description="Colours of the views: none, or ibot (those of BYOL)."
    )
    masking: Literal["paired", "shared_geometry", "double"] = Field(
        default="paired",
        description="paired: a mask on one view, its complement on the other; shared_geometry: the same, and "
        "both views are the same crop; double: both masks on both views, at twice the student's "
        "cost.",
    )
    mask_shape: MaskShape = Field(
        default="rand", description="Shape of the masks: random patches, or blocks as in iBOT."
    )
    mask_probability: float = Field(default=0.5, ge=0.0, le=1.0, description="Probability of masking an image.")
    mask_ratio: tuple[float, float] = Field(
        default=(0.1, 0.5), description="Least and greatest share of masked patches in the first mask."
    )
    cls_weight: float = Field(
        default=1.0, ge=0.0, description="Weight of the loss of the class tokens (lambda 1 of the paper)."
    )
    patch_weight: float = Field(
        default=1.0, ge=0.0, description="Weight of the loss of the patches (lambda 2 of the paper)."
    )
    center_momentum: float = Field(
        default=0.9, ge=0.0, le=1.0, description="Momentum of the centers of the teacher's outputs."
    )
    temperature: float = Field(default=0.1, gt=0.0, description="Temperature of the student.")
    cls_temperature: tuple[Positive, Positive] = Field(
        default=(0.04, 0.07), description="First and last temperature of the teacher for class tokens."
    )
    patch_temperature: tuple[Positive, Positive] = Field(
        default=(0.04, 0.07), description="First and last temperature of the teacher for patches."
    )
    temperature_epochs: int = Field(
        default=30,
        ge=0,
        description="Length of the linear change from the first to the last teacher temperature, in epochs.",
    )
    hidden: int = Field(default=2048, gt=0, description="Width of the two hidden layers of the head.")
    bottleneck: int = Field(default=256, gt=0, description="Width of the bottleneck before the last layer of the head.")
    outputs: int = Field(default=8192, gt=1, description="Number of prototypes, the outputs of the head.")
    norm_last_layer: bool = Field(
        default=True, description="true: prototypes have length 1; false: their lengths are learned."
    )
    frozen_epochs: int = Field(default=1, ge=0, description="Time during which the prototypes are frozen, in epochs.")
    export: Literal["student", "teacher"] = Field(default="teacher", description="Network to export as the backbone.")

    @model_validator(mode="after")
    def _views_differ(self) -> Self:
        if self.masking == "shared_geometry" and self.photometric == "none":
            raise ValueError(
                "objective.masking: got shared_geometry with photometric none, which makes both views equal, expected "
                "different views. Set objective.photometric=ibot, or objective.masking=paired."
            )
        if not 0.0 <= self.mask_ratio[0] <= self.mask_ratio[1] <= 1.0:
            raise ValueError(
                f"objective.mask_ratio: got {list(self.mask_ratio)}, expected 0 <= min <= max <= 1. "
                "Set it to the paper's [0.1, 0.5], for example."
            )
        return self

    def colours(self) -> dict[str, ColourSettings | None]:
        """View name -> its photometric augmentation."""
        if self.photometric == "none":
            return {"view0": None, "view1": None}
        return {"view0": FirstColour(), "view1": SecondColour()}  # iBOT uses BYOL's values


class Network(nn.Module):
    """A student or a teacher: a ViT and one head for class and patch tokens."""

    def __init__(self, backbone: Backbone, head: PrototypeHead) -> None:
        super().__init__()
        self.vit, self.head = MaskedViT(backbone), head

    @property
    def encoder(self) -> Backbone:
        """The backbone to export."""
        return self.vit.backbone


class Centers(nn.Module):
    """Centers of a teacher's outputs for class tokens and for patch tokens."""

    def __init__(self, outputs: int, momentum: float) -> None:
        super().__init__()
        self.cls, self.patch = Center(outputs, momentum), Center(outputs, momentum)


class TeacherTargets(NamedTuple):
    """A teacher's targets for V views of B images, as probabilities, and its class tokens."""

    tokens: Tensor  # [VB D], class tokens
    cls: Tensor  # [VB K]
    patches: Tensor  # [n K], for the masked patches


@final
class GscMim(TeacherStudent[GscMimSettings]):
    """ValueError if the shard set lacks a sensor or band, or the backbone is not a plain ViT."""

    Settings = GscMimSettings
    couples_samples = True  # through the centers, which are updated once per forward

    def __init__(
        self,
        settings: GscMimSettings,
        sensors: dict[str, SensorSettings],
        backbone: BackboneSettings,
        groups: Sequence[Group],
    ) -> None:
        super().__init__()
        self.settings = settings
        shared_crop = settings.masking == "shared_geometry"
        self.views = SensorViews(settings, settings.colours(), sensors, groups, settings.fusion, shared_crop)
        self.groups, inputs = self.views.groups, self.views.inputs()
        self.student = nn.ModuleDict({name: self._student(one, backbone) for name, one in inputs.items()})
        self.teacher = make_teacher(self.student)
        for name in inputs:
            self._networks(name)[1].vit.mask_token = None  # teachers see whole views
        self.centers = nn.ModuleDict({name: Centers(settings.outputs, settings.center_momentum) for name in inputs})
        self.own_losses = {name: f"loss/gsc_mim_{name}" for name in inputs} if len(inputs) > 1 else {}
        self.metric_names = ("loss/gsc_mim", "loss/cls", "loss/patch", *self.own_losses.values(), CHANCE_RATIO, *HEALTH)
        self.prepare(Progress(0, 1, 1))

    def _student(self, network_input: NetworkInput, backbone: BackboneSettings) -> Network:
        settings = self.settings
        encoder = create_backbone(backbone, network_input.name, network_input.bands, settings.px)
        learned = not settings.norm_last_layer
        head = PrototypeHead(encoder.num_features, settings.hidden, settings.bottleneck, settings.outputs, learned)
        return Network(encoder, head)

    def _networks(self, name: str) -> tuple[Network, Network]:
        """Student and teacher of a network."""
        return cast(Network, self.student[name]), cast(Network, self.teacher[name])

    def prepare(self, progress: Progress) -> None:
        """Set EMA momentum, teacher temperatures, and whether the prototypes are frozen."""
        settings, epochs = self.settings, self.settings.temperature_epochs
        self._set_momentum(progress)
        self.cls_temperature = warmup_temperature(progress.epoch, epochs, *settings.cls_temperature)
        self.patch_temperature = warmup_temperature(progress.epoch, epochs, *settings.patch_temperature)
        for name in self.student:
            self._networks(name)[0].head.frozen = progress.epoch < settings.frozen_epochs

    def forward(self, batch: Batch) -> Losses:
        """See Objective."""
        terms, health = [], []
        masks = self.masks(batch.seeds)
        for name, views in self.views(batch).items():
            x = torch.cat(views)  # [VB C px px], V = 2
            cls, patch, tokens, targets = self._network_losses(name, x, masks)
            terms.append(torch.stack([cls, patch]))
            if self.compute_health:
                of_targets = teacher_health(targets.cls, cast(Center, self.centers[name].cls), self.cls_temperature)
                health.append(teacher_student_health(targets.tokens.chunk(2), tokens.split(len(batch))) | of_targets)
        cls_loss, patch_loss = torch.stack(terms).unbind(dim=1)  # [networks] each
        losses = self.settings.cls_weight * cls_loss + self.settings.patch_weight * patch_loss
        metrics = {"loss/gsc_mim": losses.detach().mean()}
        metrics |= {"loss/cls": cls_loss.detach().mean(), "loss/patch": patch_loss.detach().mean()}
        metrics |= dict(zip(self.own_losses.values(), losses.detach(), strict=False))
        metrics[CHANCE_RATIO] = losses.detach().mean() / self._chance_level(masks)
        return Losses(losses.mean(), metrics | worst_values(health))

    def _chance_level(self, masks: Tensor) -> Tensor:
        """The loss of guessing: log K for every class token, and for the patches of every masked view."""
        masked_views = masks.any(dim=2).float().mean()
        return (self.settings.cls_weight + self.settings.patch_weight * masked_views) * math.log(self.settings.outputs)

    def masks(self, seeds: Tensor) -> Tensor:
        """Masks [M VB N] bool of V views in each of the student's M passes, the same for all sensors."""
        settings = self.settings
        grid = self._networks(next(iter(self.student)))[0].vit.grid
        mask = draw_masks(
            seeds, "mask", grid, settings.mask_probability, settings.mask_ratio, settings.mask_shape
        )  # [B N]
        pair = complementary_masks(mask, seeds, "mask")  # [V B N]
        passes = torch.stack([pair, pair.flip(0)]) if settings.masking == "double" else pair[None]
        return passes.flatten(1, 2)

    def _network_losses(self, name: str, x: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor, TeacherTargets]:
        """Class and patch loss for views [VB C px px] and masks [M VB N], student class tokens, teacher targets."""
        student, _ = self._networks(name)
        passes, num = masks.shape[:2]
        masked = masks.flatten().nonzero()[:, 0]  # [n] indices into [M VB N]: the head only gets masked patches
        targets = self._teacher_targets(name, x, masked % masks[0].numel())
        cls, patches = student.vit(
            x.expand(passes, *x.shape).flatten(0, 1), masks.flatten(0, 1)
        )  # [M VB D], [M VB N D]
        outputs = student.head(torch.cat([cls, patches.flatten(0, 1)[masked]]))  # [M VB + n, K], in one pass
        cls_outputs, patch_outputs = outputs.split([passes * num, len(masked)])
        other_view = torch.cat(targets.cls.chunk(2)[::-1]).repeat(passes, 1)
        cls_loss = cross_entropy(other_view, cls_outputs, self.settings.temperature).mean()
        patch_losses = cross_entropy(targets.patches, patch_outputs, self.settings.temperature)  # [n]
        per_view = masks.sum(dim=2, keepdim=True, dtype=patch_losses.dtype).clamp(min=1.0)  # number of masked patches
        weights = masks / per_view / (passes * num)
        patch_loss = (patch_losses * weights.flatten()[masked]).sum()  # not `@`, which is bf16 under autocast
        return cls_loss, patch_loss, cls, targets

    @torch.no_grad()
    def _teacher_targets(self, name: str, x: Tensor, masked: Tensor) -> TeacherTargets:
        """The teacher's targets for whole views; `masked` [n]: indices of patches in [VB N]. Then centers are updated.

        Centers use the outputs of all patches, from the mean direction, because the last layer is linear.
        """
        teacher, centers = self._networks(name)[1], cast(Centers, self.centers[name])
        tokens, patches = teacher.vit(x)
        cls, all_patches = teacher.head.directions(tokens), teacher.head.directions(patches.flatten(0, 1))
        cls_outputs, patch_outputs = teacher.head.outputs(cls), teacher.head.outputs(all_patches[masked])
        targets = TeacherTargets(
            tokens,
            teacher_probabilities(cls_outputs, centers.cls.value, self.cls_temperature),
            teacher_probabilities(patch_outputs, centers.patch.value, self.patch_temperature),
        )
        with torch.autocast(x.device.type, enabled=False):
            mean_cls, mean_patch = teacher.head.outputs(global_means([cls, all_patches]))
        centers.cls.update_(mean_cls)
        centers.patch.update_(mean_patch)
        return targets
