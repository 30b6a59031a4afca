"""MAE: from the quarter of an image's patches that the encoder sees, a small decoder paints the rest.

He et al. 2022 and its code. One network a sensor, or one for the stacked bands of all (`fusion`); views and masks of a
sample are the same for all. A patch is normalised over its pixels and bands together, as over colours in the paper.
Deviations: the encoder's layers start as timm has them; symmetries of views are of the plane, as everywhere here.
"""

from collections.abc import Sequence
from typing import Self, cast, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from rspretrain.batch import Batch
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.decoder import PatchDecoder, fix_positions_, patchify
from rspretrain.nn.tokens import MaskedViT
from rspretrain.objectives.base import Losses, ObjectiveSettings, StaticObjective
from rspretrain.objectives.per_network import loss_names, mean_loss
from rspretrain.observe.health import effective_rank, feature_std
from rspretrain.sensors import Group
from rspretrain.transforms.inputs import NetworkInput, SensorSettings
from rspretrain.transforms.masking import draw_masks
from rspretrain.transforms.views import CropSettings, Fusion, SensorViews

HEALTH = ("health/feature_std", "health/effective_rank")  # of class tokens of what is visible, least of any sensor


class MaeSettings(ObjectiveSettings, CropSettings):
    """Any sensors, one view, most of it hidden; the backbone is a ViT."""

    name: str = Field(default="mae", description="MAE: reconstruct masked patches; the backbone is a ViT.")
    fusion: Fusion = Field(
        default="none",
        description="none: one network per sensor; early: one network for the stacked bands of all sensors.",
    )
    mask_ratio: float = Field(default=0.75, gt=0.0, lt=1.0, description="Share of masked patches.")
    normalise_patches: bool = Field(
        default=True, description="Reconstruct patches normalised by their own mean and standard deviation."
    )
    decoder_width: int = Field(default=512, gt=0, description="Width of the decoder.")
    decoder_depth: int = Field(default=8, gt=0, description="Number of decoder blocks.")
    decoder_heads: int = Field(
        default=16, gt=0, description="Number of attention heads of the decoder; a divisor of decoder_width."
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is no multiple of decoder_heads {self.decoder_heads}, which share "
                "it equally. Change one of them."
            )
        return self


@final
class Mae(StaticObjective):
    """One view, masked. ValueError where a sensor or band is missing, the network is no ViT or the mask is trivial."""

    Settings = MaeSettings
    couples_samples = False

    def __init__(
        self,
        settings: MaeSettings,
        sensors: dict[str, SensorSettings],
        backbone: BackboneSettings,
        groups: Sequence[Group],
    ) -> None:
        super().__init__()
        self.settings = settings
        self.views = SensorViews(settings, {"view": None}, sensors, groups, settings.fusion)
        self.groups, inputs = self.views.groups, self.views.inputs()
        self.encoders = nn.ModuleDict({name: self._encoder(one, backbone) for name, one in inputs.items()})
        self.decoders = nn.ModuleDict({name: self._decoder(self._vit(name)) for name in inputs})
        self.metric_names = (*loss_names("mae", inputs), *HEALTH)
        self.grid = self._vit(next(iter(inputs))).grid
        check_mask(settings.mask_ratio, self.grid)

    def _encoder(self, network_input: NetworkInput, backbone: BackboneSettings) -> MaskedViT:
        vit = MaskedViT(create_backbone(backbone, network_input.name, network_input.bands, self.settings.px))
        vit.mask_token = None  # hidden patches are left out, not replaced
        fix_positions_(vit)
        return vit

    def _decoder(self, vit: MaskedViT) -> PatchDecoder:
        settings, encoder = self.settings, vit.backbone
        pixels = (settings.px // vit.grid[0]) * (settings.px // vit.grid[1]) * len(encoder.bands)
        shape = (settings.decoder_width, settings.decoder_depth, settings.decoder_heads)
        return PatchDecoder(encoder.num_features, vit.grid, pixels, *shape)

    def _vit(self, name: str) -> MaskedViT:
        return cast(MaskedViT, self.encoders[name])

    def forward(self, batch: Batch) -> Losses:
        """One view of B samples; see Objective."""
        losses, health, nothing = {}, [], []
        hidden = self.mask(batch.seeds)
        # Visible places come first, in order. Their number is known, so no device waits to count them.
        kept = hidden.byte().argsort(dim=1, stable=True)[:, : num_visible(self.settings.mask_ratio, self.grid)]
        for name, (view,) in self.views(batch).items():
            cls, patches = self.encoders[name](view, kept=kept)
            painted = self.decoders[name](cls, patches, kept)  # [B N p*p*C]
            target = patchify(view, self.grid)
            if self.settings.normalise_patches:
                target = standardise(target)
            losses[name] = masked_mse(painted, target, hidden)
            nothing.append(masked_mse(torch.zeros_like(painted[:, :1]), target, hidden))  # blank patches
            if self.is_watched:
                health.append({"health/feature_std": feature_std(cls), "health/effective_rank": effective_rank(cls)})
        return mean_loss("mae", losses, health, torch.stack(nothing).mean())

    def mask(self, seeds: Tensor) -> Tensor:
        """[B N] bool, True: hidden; the same number in every sample."""
        return draw_masks(seeds, "mask", self.grid, 1.0, (self.settings.mask_ratio, self.settings.mask_ratio))

    def inputs(self) -> dict[str, NetworkInput]:
        """See Objective."""
        return self.views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        return {name: self._vit(name).backbone for name in self.encoders}


def standardise(target: Tensor) -> Tensor:
    """Patches [B N O] less their mean, over their standard deviation (unbiased, 1e-6 added to the variance).

    To paint nothing then scores almost 1. In float32 or better.
    """
    with torch.autocast(target.device.type, enabled=False):
        target = target.to(torch.promote_types(target.dtype, torch.float32))
        var, mean = torch.var_mean(target, dim=2, keepdim=True)
        return (target - mean) / (var + 1e-6).sqrt()


def masked_mse(painted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean square over the hidden patches, [B N O] against [B N O], hidden [B N] bool; in float32 or better."""
    with torch.autocast(painted.device.type, enabled=False):
        painted, target = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (painted, target))
        loss = (painted - target).square().mean(dim=2)  # [B N]
        return (loss * hidden).sum() / hidden.sum()


def num_visible(ratio: float, grid: tuple[int, int]) -> int:
    """How many patches `draw_masks` leaves of N: N - floor(ratio N)."""
    num = grid[0] * grid[1]
    return num - int(ratio * num)


def check_mask(ratio: float, grid: tuple[int, int]) -> None:
    """ValueError where so few patches leave nothing hidden."""
    num = grid[0] * grid[1]
    if num_visible(ratio, grid) == num:
        raise ValueError(
            f"A mask_ratio of {ratio:g} hides none of {num} patches ({grid[0]} x {grid[1]}), expected at least one. "
            "Raise objective.mask_ratio, or objective.px, or take a backbone with smaller patches."
        )
