"""MoCo v3: InfoNCE between the student's queries and the teacher's keys, over the samples of all ranks.

Chen et al. 2021, algorithm 1, and its code; docs/methods.md, MoCo v3. No queue: negatives are the other samples of the
global batch. One student per sensor, or one for the stacked bands of all; views are BYOL's. Deviations: ViTs have
timm's learned position embeddings instead of fixed sines, and timm's initialisation of the patch embedding. The teacher
is updated after each step with that step's momentum; in algorithm 1, before the next forward with the next step's. The
predictor ends in a BatchNorm with ResNets too. Biases, norms, class token and position embeddings have no weight decay.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.ema import make_teacher
from rspretrain.nn.heads import projection_mlp
from rspretrain.nn.norm import synchronise_norms
from rspretrain.objectives.base import Losses, ObjectiveSettings, Progress, loss_names, mean_loss
from rspretrain.objectives.contrastive import chance_level
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
from rspretrain.world import gather_stack, rank


class MocoV3Settings(ObjectiveSettings, TeacherStudentSettings):
    """MoCo v3 on any sensors: two random views and an EMA teacher."""

    name: str = Field(
        default="moco_v3", description="MoCo v3: contrast queries of the student with keys of the teacher."
    )
    scale: AreaRange = Field(
        default=(0.08, 1.0),
        description="Least and greatest share of the image area in a random resized crop; [0.2, 1] in the "
        "paper for ResNets.",
    )
    first: FirstColour = Field(default=FirstColour(), description="Colours of the first view.")
    second: SecondColour = Field(default=SecondColour(), description="Colours of the second view.")
    temperature: float = Field(
        default=0.2, gt=0.0, description="Temperature of the softmax; 1 in the paper for ResNets."
    )
    momentum: float = Field(
        default=0.99,
        ge=0.0,
        le=1.0,
        description="Momentum of the teacher (exponential moving average) at the first step.",
    )
    projector_layers: int = Field(
        default=3, ge=2, description="Number of layers of the projector; 2 in the paper for ResNets."
    )
    hidden: int = Field(default=4096, gt=0, description="Width of the hidden layers of projector and predictor.")
    projection: int = Field(default=256, gt=0, description="Width of queries and keys.")
    freeze_patch_embedding: bool = Field(
        default=False,
        description="Keep the patch embedding of a ViT at its random initial weights, the paper's remedy for "
        "dips in training.",
    )


@final
class MocoV3(TeacherStudent[MocoV3Settings]):
    """ValueError if the shard set lacks a sensor or band, or there is no patch embedding to freeze."""

    Settings = MocoV3Settings
    couples_samples = True

    def __init__(
        self,
        settings: MocoV3Settings,
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
        self.predictor = nn.ModuleDict({name: self._head(settings.projection, 2) for name in inputs})
        self.teacher = make_teacher(self.student)
        self.metric_names = (*loss_names("moco_v3", inputs), *TEACHER_STUDENT_HEALTH)
        synchronise_norms(self)

    def _student(self, network_input: NetworkInput, backbone: BackboneSettings) -> nn.Module:
        encoder = create_backbone(backbone, network_input.name, network_input.bands, self.settings.px)
        if self.settings.freeze_patch_embedding:
            freeze_patch_embedding_(encoder)
        projector = self._head(encoder.num_features, self.settings.projector_layers)
        return nn.Sequential(OrderedDict(encoder=encoder, projector=projector))

    def _head(self, width: int, layers: int) -> nn.Module:
        """Linear layers without bias, each with a norm, the last one's without scale."""
        dims = (width, *[self.settings.hidden] * (layers - 1), self.settings.projection)
        return nn.Sequential(
            *projection_mlp(dims, norm=True, last_bias=False), nn.BatchNorm1d(self.settings.projection, affine=False)
        )

    def prepare(self, progress: Progress) -> None:
        """Set the EMA momentum."""
        self._set_momentum(progress)

    def forward(self, batch: Batch) -> Losses:
        """See Objective. Each view is a separate forward, so norms see one distribution of colours."""
        losses, health, temperature = {}, [], self.settings.temperature
        for name, views in self.views(batch).items():
            with torch.no_grad():
                k1, k2 = (self.teacher[name](view) for view in views)  # [B 256]
            projected = [self.student[name](view) for view in views]
            q1, q2 = (self.predictor[name](z) for z in projected)
            losses[name] = info_nce(q1, k2, temperature) + info_nce(q2, k1, temperature)
            if self.compute_health:
                health.append(teacher_student_health((k1, k2), projected))
        return mean_loss("moco_v3", losses, health, 4.0 * temperature * chance_level(len(batch), "cross"))


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE of this rank's queries [B D] and the BR keys of all R ranks, times 2 temperature; float32 or better.

    Keys [B D] have no gradient. Chance level is 2 temperature log(BR).
    """
    with torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(queries.dtype, torch.float32)  # float64 stays, for tests
        q, k = F.normalize(queries.to(dtype)), F.normalize(keys.to(dtype))
        logits = q @ gather_stack(k).flatten(0, 1).T / temperature  # [B BR]
        own = torch.arange(len(q), device=q.device) + rank() * len(q)
        return 2.0 * temperature * F.cross_entropy(logits, own)


def freeze_patch_embedding_(encoder: Backbone) -> None:
    """Freeze the patch embedding. ValueError if the backbone has none."""
    embedding = getattr(encoder.model, "patch_embed", None)
    if not isinstance(embedding, nn.Module):
        raise ValueError(
            f"objective.freeze_patch_embedding is true, but backbone {encoder.architecture!r} has no patch embedding, "
            "expected a ViT. Set objective.freeze_patch_embedding=false, or backbone.name to vit_small_patch16_224."
        )
    embedding.requires_grad_(False)
