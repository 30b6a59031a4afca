"""Dual-SimCLR: the images of two sensors are the two views of a location; one backbone and head per sensor, NT-Xent.

Scheibenreif et al. 2022; docs/methods.md, Dual-SimCLR. A shared random window is the only augmentation; random flips
are off, as in the released code. Deviations: `fixed` scaling by default, `hsg` in the released code; a projection head
for transformers, too; negatives come from all ranks.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.heads import projection_mlp
from rspretrain.nn.norm import synchronise_norms
from rspretrain.nn.two_stage_loss import TwoStageLoss
from rspretrain.objectives.base import CHANCE_RATIO, Losses, ObjectiveSettings, StaticObjective
from rspretrain.objectives.contrastive import VIEW_HEALTH, Negatives, chance_level, nt_xent, view_health
from rspretrain.sensors import Group
from rspretrain.transforms.inputs import NetworkInput, SensorSettings
from rspretrain.transforms.shared_window import SharedWindow, WindowSettings


class DualSimclrSettings(ObjectiveSettings, WindowSettings):
    """Dual-SimCLR on two aligned sensors."""

    name: str = Field(default="dual_simclr", description="Dual-SimCLR: contrast two sensors.")
    temperature: float | None = Field(
        default=None, gt=0, description="Temperature of the softmax. null: 0.07 for CNNs, 0.2 for transformers."
    )
    head: Literal["mlp", "none"] = Field(
        default="mlp",
        description="mlp: projection head; none: the loss uses the features directly (as the released Swin model).",
    )
    negatives: Negatives = Field(
        default="all",
        description="all: the 2N - 2 other samples of both sensors; cross: the N - 1 of the other sensor.",
    )


@final
class DualSimclr(StaticObjective, TwoStageLoss):
    """NT-Xent between two sensors, over all ranks. ValueError unless exactly two sensors are configured."""

    Settings = DualSimclrSettings
    metric_names = ("loss/nt_xent", CHANCE_RATIO, *VIEW_HEALTH)
    couples_samples = True

    def __init__(
        self,
        settings: DualSimclrSettings,
        sensors: dict[str, SensorSettings],
        backbone: BackboneSettings,
        groups: Sequence[Group],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.views = SharedWindow(settings.name, settings, sensors, groups)
        self.groups = self.views.groups
        self.encoders = nn.ModuleDict(
            {name: create_backbone(backbone, name, s.bands, self.views.px) for name, s in sensors.items()}
        )
        self.heads = nn.ModuleDict({name: self._head(b.num_features) for name, b in self.backbones().items()})
        convolutional = all(b.is_convolutional for b in self.backbones().values())
        self.temperature = settings.temperature or (0.07 if convolutional else 0.2)
        synchronise_norms(self)

    def _head(self, width: int) -> nn.Module:
        return nn.Identity() if self.settings.head == "none" else projection_mlp((width, width, 128), norm=False)

    def forward(self, batch: Batch) -> Losses:
        """See Objective."""
        return self.compute_loss(self.embed(batch))

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings [2 B D], one view per sensor."""
        return torch.stack([self.heads[name](self.encoders[name](view)) for name, view in self.views(batch).items()])

    def compute_loss(self, embeddings: Tensor) -> Losses:
        """See TwoStageLoss."""
        z1, z2 = embeddings
        loss = nt_xent(z1, z2, self.temperature, self.settings.negatives)
        metrics = {
            "loss/nt_xent": loss.detach(),
            CHANCE_RATIO: loss.detach() / chance_level(len(z1), self.settings.negatives),
        }
        return Losses(loss, metrics | (view_health(z1, z2) if self.compute_health else {}))

    def inputs(self) -> dict[str, NetworkInput]:
        """See Objective."""
        return self.views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        return dict(self.encoders.items())  # type: ignore[arg-type]
