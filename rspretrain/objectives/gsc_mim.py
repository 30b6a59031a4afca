"""GSC-MIM: a student sees two views with complementary parts hidden, and learns what its teacher sees in whole ones.

Patch tokens learn the hidden patches of their own view, the class token the scene of the other view; the paper's text
(doi 10.3389/fevo.2022.1083801) with iBOT's code where it is silent (methods.md C). Masks are drawn per image, and an
image that draws r = 0 hides nothing in either view. Deviations: views are resampled bilinearly; the last layer is
frozen by gradients of 0 (PrototypeHead); drop path is drawn per rank.
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
from rspretrain.objectives.base import CHANCE_RATIO, Losses, ObjectiveSettings, Progress
from rspretrain.objectives.contrastive import worst
from rspretrain.objectives.self_distillation import (
    TEACHER_HEALTH,
    Center,
    cross_entropy,
    means_over_ranks,
    soften,
    teacher_health,
    warm_temperature,
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

# Of the class tokens of both, and of the teacher's answers to its own; the worst of any network.
HEALTH = (*TEACHER_STUDENT_HEALTH, *TEACHER_HEALTH)


class GscMimSettings(ObjectiveSettings, TeacherStudentSettings):
    """Any sensors, two views with complementary masks, a teacher; the backbone is a ViT."""

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
        "both views show one place; double: both masks on both views, at twice the student's "
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
                "objective.masking: got shared_geometry with photometric none, which makes both views one picture; "
                "expected views that differ. Set objective.photometric=ibot, or objective.masking=paired."
            )
        if not 0.0 <= self.mask_ratio[0] <= self.mask_ratio[1] <= 1.0:
            raise ValueError(
                f"objective.mask_ratio: got {list(self.mask_ratio)}, expected two shares, 0 <= least <= greatest <= 1. "
                "The paper has [0.1, 0.5]."
            )
        return self

    def colours(self) -> dict[str, ColourSettings | None]:
        """Name of each view -> its colours."""
        if self.photometric == "none":
            return {"view0": None, "view1": None}
        return {"view0": FirstColour(), "view1": SecondColour()}  # iBOT's are BYOL's, number for number


class Network(nn.Module):
    """A student or a teacher: tokens, and one head for class and patch tokens alike."""

    def __init__(self, backbone: Backbone, head: PrototypeHead) -> None:
        super().__init__()
        self.vit, self.head = MaskedViT(backbone), head

    @property
    def encoder(self) -> Backbone:
        """The network that is exported."""
        return self.vit.backbone


class Centers(nn.Module):
    """Of a teacher's outputs for class tokens, and of those for patches."""

    def __init__(self, outputs: int, momentum: float) -> None:
        super().__init__()
        self.cls, self.patch = Center(outputs, momentum), Center(outputs, momentum)


class Lesson(NamedTuple):
    """What a teacher says of V views of B images: probabilities, and the class tokens that they come from."""

    tokens: Tensor  # [VB D]
    cls: Tensor  # [VB K]
    patches: Tensor  # [n K], of the patches asked for


@final
class GscMim(TeacherStudent[GscMimSettings]):
    """Two views, masks, one teacher a student. ValueError where a sensor or band is missing, or the network no ViT."""

    Settings = GscMimSettings
    couples_samples = True  # by the centers, which move once a forward

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
            self._networks(name)[1].vit.mask_token = None  # a teacher sees everything
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
        """Student and teacher."""
        return cast(Network, self.student[name]), cast(Network, self.teacher[name])

    def prepare(self, progress: Progress) -> None:
        """The teacher follows more slowly and gets less sure, and prototypes begin to move; see Objective."""
        settings, epochs = self.settings, self.settings.temperature_epochs
        self._set_momentum(progress)
        self.cls_temperature = warm_temperature(progress.epoch, epochs, *settings.cls_temperature)
        self.patch_temperature = warm_temperature(progress.epoch, epochs, *settings.patch_temperature)
        for name in self.student:
            self._networks(name)[0].head.frozen = progress.epoch < settings.frozen_epochs

    def forward(self, batch: Batch) -> Losses:
        """See Objective."""
        terms, health = [], []
        masks = self.masks(batch.seeds)
        for name, views in self.views(batch).items():
            x = torch.cat(views)  # [VB C px px], the V = 2 views one behind the other
            cls, patch, seen, lesson = self._distil(name, x, masks)
            terms.append(torch.stack([cls, patch]))
            if self.is_watched:
                answers = teacher_health(lesson.cls, cast(Center, self.centers[name].cls), self.cls_temperature)
                health.append(teacher_student_health(lesson.tokens.chunk(2), seen.split(len(batch))) | answers)
        cls_loss, patch_loss = torch.stack(terms).unbind(dim=1)  # [networks] each
        losses = self.settings.cls_weight * cls_loss + self.settings.patch_weight * patch_loss
        metrics = {"loss/gsc_mim": losses.detach().mean()}
        metrics |= {"loss/cls": cls_loss.detach().mean(), "loss/patch": patch_loss.detach().mean()}
        metrics |= dict(zip(self.own_losses.values(), losses.detach(), strict=False))
        metrics[CHANCE_RATIO] = losses.detach().mean() / self._chance(masks)
        return Losses(losses.mean(), metrics | worst(health))

    def _chance(self, masks: Tensor) -> Tensor:
        """The loss of guessing: log K for every class token, and for the patches of every view that hides some."""
        hides = masks.any(dim=2).float().mean()
        return (self.settings.cls_weight + self.settings.patch_weight * hides) * math.log(self.settings.outputs)

    def masks(self, seeds: Tensor) -> Tensor:
        """[M VB N] bool, the same for all sensors: what is hidden of V views in each of the student's M passes."""
        settings = self.settings
        grid = self._networks(next(iter(self.student)))[0].vit.grid
        mask = draw_masks(
            seeds, "mask", grid, settings.mask_probability, settings.mask_ratio, settings.mask_shape
        )  # [B N]
        pair = complementary_masks(mask, seeds, "mask")  # [V B N]
        passes = torch.stack([pair, pair.flip(0)]) if settings.masking == "double" else pair[None]
        return passes.flatten(1, 2)

    def _distil(self, name: str, x: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor, Lesson]:
        """Of views [VB C px px] and masks [M VB N]: both losses, the student's class tokens, and the teacher's word."""
        student, _ = self._networks(name)
        passes, num = masks.shape[:2]
        places = masks.flatten().nonzero()[:, 0]  # [n] in [M VB N]: only hidden patches go through the last layer
        lesson = self._teach(name, x, places % masks[0].numel())
        cls, patches = student.vit(
            x.expand(passes, *x.shape).flatten(0, 1), masks.flatten(0, 1)
        )  # [M VB D], [M VB N D]
        outputs = student.head(torch.cat([cls, patches.flatten(0, 1)[places]]))  # [M VB + n, K], in one pass
        cls_outputs, patch_outputs = outputs.split([passes * num, len(places)])
        other_view = torch.cat(lesson.cls.chunk(2)[::-1]).repeat(passes, 1)
        cls_loss = cross_entropy(other_view, cls_outputs, self.settings.temperature).mean()
        own = cross_entropy(lesson.patches, patch_outputs, self.settings.temperature)  # [n]
        share = masks / masks.sum(dim=2, keepdim=True, dtype=own.dtype).clamp(min=1.0) / (passes * num)  # in the loss
        return cls_loss, (own * share.flatten()[places]).sum(), cls, lesson  # `@` would be bf16 under autocast

    @torch.no_grad()
    def _teach(self, name: str, x: Tensor, places: Tensor) -> Lesson:
        """The teacher's answers to whole views; places [n] are of patches in [VB N]. Then the centers move.

        They follow the outputs of all patches, by the mean of their directions: the last layer is linear.
        """
        teacher, centers = self._networks(name)[1], cast(Centers, self.centers[name])
        tokens, patches = teacher.vit(x)
        cls, all_patches = teacher.head.directions(tokens), teacher.head.directions(patches.flatten(0, 1))
        lesson = Lesson(
            tokens,
            soften(teacher.head.outputs(cls), centers.cls.value, self.cls_temperature),
            soften(teacher.head.outputs(all_patches[places]), centers.patch.value, self.patch_temperature),
        )
        with torch.autocast(x.device.type, enabled=False):
            mean_cls, mean_patch = teacher.head.outputs(means_over_ranks([cls, all_patches]))
        centers.cls.update_(mean_cls)
        centers.patch.update_(mean_patch)
        return lesson
