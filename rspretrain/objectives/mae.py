"""MAE: the encoder sees a quarter of the patches, and a small decoder predicts the pixels of the others.

He et al. 2022 and its code; docs/methods.md, MAE. One network per sensor, or one for the stacked bands of all
(`fusion`); views and masks of a sample are shared. A patch is normalised over all its pixels and bands, as over colours
in the paper. Deviations: the encoder has timm's initialisation; views have vertical flips and rotations too, and are
resampled bilinearly; P - floor(rho P) patches are visible; the released code has floor((1 - rho) P).
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
from rspretrain.objectives.base import Losses, ObjectiveSettings, StaticObjective, loss_names, mean_loss
from rspretrain.observe.health import effective_rank, feature_std
from rspretrain.sensors import Group
from rspretrain.transforms.inputs import NetworkInput, SensorSettings
from rspretrain.transforms.masking import draw_masks
from rspretrain.transforms.views import CropSettings, Fusion, SensorViews

HEALTH = ("health/feature_std", "health/effective_rank")  # class tokens of visible patches; the worst over sensors


class MaeSettings(ObjectiveSettings, CropSettings):
    """MAE on any sensors: one masked view; requires a ViT."""

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
                f"decoder_width {self.decoder_width} is not a multiple of decoder_heads {self.decoder_heads}, expected "
                "the same width for every head. Change one of them."
            )
        return self


@final
class Mae(StaticObjective):
    """ValueError if the shard set lacks a sensor or band, the backbone is not a plain ViT, or the mask is empty."""

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
        vit.mask_token = None  # masked patches are removed, not replaced
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
        """See Objective."""
        losses, health, blank = {}, [], []
        mask = self.mask(batch.seeds)
        # Visible patches first, in order. Their number is known, so host and device are not synchronised.
        kept = mask.byte().argsort(dim=1, stable=True)[:, : num_visible(self.settings.mask_ratio, self.grid)]
        for name, (view,) in self.views(batch).items():
            cls, patches = self.encoders[name](view, kept=kept)
            predicted = self.decoders[name](cls, patches, kept)  # [B N p*p*C]
            target = patchify(view, self.grid)
            if self.settings.normalise_patches:
                target = standardise(target)
            losses[name] = masked_mse(predicted, target, mask)
            blank.append(masked_mse(torch.zeros_like(predicted[:, :1]), target, mask))  # loss of predicting zero
            if self.compute_health:
                health.append({"health/feature_std": feature_std(cls), "health/effective_rank": effective_rank(cls)})
        return mean_loss("mae", losses, health, torch.stack(blank).mean())

    def mask(self, seeds: Tensor) -> Tensor:
        """[B N] bool, True: masked; the same number in every sample."""
        return draw_masks(seeds, "mask", self.grid, 1.0, (self.settings.mask_ratio, self.settings.mask_ratio))

    def inputs(self) -> dict[str, NetworkInput]:
        """See Objective."""
        return self.views.inputs()

    def backbones(self) -> dict[str, Backbone]:
        """See Objective."""
        return {name: self._vit(name).backbone for name in self.encoders}


def standardise(target: Tensor) -> Tensor:
    """Standardise each patch of [B N O]: zero mean, unit variance (unbiased, plus 1e-6), in float32 or better.

    The loss of predicting zero is then almost 1.
    """
    with torch.autocast(target.device.type, enabled=False):
        target = target.to(torch.promote_types(target.dtype, torch.float32))
        var, mean = torch.var_mean(target, dim=2, keepdim=True)
        return (target - mean) / (var + 1e-6).sqrt()


def masked_mse(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over masked patches, predicted and target [B N O], mask [B N] bool; in float32 or better."""
    with torch.autocast(predicted.device.type, enabled=False):
        predicted, target = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (predicted, target))
        loss = (predicted - target).square().mean(dim=2)  # [B N]
        return (loss * mask).sum() / mask.sum()


def num_visible(ratio: float, grid: tuple[int, int]) -> int:
    """Number of visible patches of N: N - floor(ratio N), as in `draw_masks`."""
    num = grid[0] * grid[1]
    return num - int(ratio * num)


def check_mask(ratio: float, grid: tuple[int, int]) -> None:
    """Raise ValueError if the mask is empty because there are too few patches."""
    num = grid[0] * grid[1]
    if num_visible(ratio, grid) == num:
        raise ValueError(
            f"objective.mask_ratio {ratio:g} masks none of {num} patches ({grid[0]} x {grid[1]}), expected at least "
            "one. Raise objective.mask_ratio or objective.px, or choose a backbone with smaller patches."
        )
