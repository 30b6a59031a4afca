"""SCT Fusion: one ViT a sensor, whose class tokens are fused after every block and given back to all of them.

Hoffmann, Clasen, Demir 2023 (arXiv 2306.01523), eq. 1; methods.md D.3. Z^j: sensor j's tokens, Z^j_0 its class token.

    Z^j = [cls^j ; patches^j] + pos^j                   for every sensor j of N
    for l = 1 … depth:
        Z^j   <- Block_l^j(Z^j)                         timm's own blocks, own weights a sensor
        c     =  W_l [Z^1_0 ; … ; Z^N_0] + b_l          Linear(N D -> D)
        Z^j_0 <- c                                      patch tokens untouched
    logits = Linear(D, K)(LayerNorm(c))

Ours, where the paper is silent: every block has a fusion of its own (it writes one W and says that the process is
repeated; `share_fusion` is the other reading); W_l starts as [I/N … I/N], the mean; the one final LayerNorm, on c,
starts as the mean of the backbones' own. So one sensor alone is timm's ViT, bit for bit. The class token comes first,
as in timm; the paper appends it, which attention cannot tell. The order of the sensors is that of the backbones.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone, is_plain_vit, with_drop_path
from rspretrain.nn.classifiers.base import Classifier, ClassifierSettings, input_bands, input_px, stack_of


class SctSettings(ClassifierSettings):
    """How class tokens are fused; the ViTs have settings of their own."""

    name: str = Field(default="sct_fusion", description="SCT Fusion: one ViT per sensor with fused class tokens.")
    share_fusion: bool = Field(
        default=False, description="Use one fusion layer for all blocks instead of one per block."
    )
    fusion_init: Literal["mean", "default"] = Field(
        default="mean", description="Initial fusion layers: mean (of the class tokens), or torch's default for Linear."
    )
    drop_path: float = Field(
        default=0.25,
        ge=0.0,
        lt=1.0,
        description="Stochastic depth rate of the last block, linear from 0 at the first block; drawn per "
        "image and sensor. Fusion layers are never dropped.",
    )


@final
class SctFusion(Classifier):
    """Any number of ViTs of one width and depth, each with its own sensor, bands, patch, heads and px. See Classifier.

    The backbones, fresh from `create_backbone` or loaded with pretrained weights, are copied, not changed. The copies
    in `self.backbones` have no final norm and are not for export.
    ValueError where one is no plain ViT, or widths or depths differ; and see `input_bands`.
    """

    Settings = SctSettings

    def __init__(
        self,
        settings: SctSettings,
        backbones: Sequence[Backbone],
        num_classes: int,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`bands`: sensor -> its bands, needed where a backbone takes several sensors."""
        super().__init__(input_bands(backbones, bands), input_px(backbones), num_classes)
        width, depth = _common_shape(backbones)
        self.backbones.update({one.sensor: with_drop_path(one, settings.drop_path) for one in backbones})
        self.norm = _mean_norm([vit.norm for vit in self._vits])
        for vit in self._vits:
            vit.norm = nn.Identity()  # would have no gradient, which DDP does not forgive
        num_fusions = 1 if settings.share_fusion else depth
        self.fusions = nn.ModuleList(nn.Linear(len(backbones) * width, width) for _ in range(num_fusions))
        if settings.fusion_init == "mean":
            for fusion in self.fusions:
                _start_as_mean_(fusion)  # type: ignore[arg-type]
        self.depth = depth
        self.head = nn.Linear(width, num_classes)

    @property
    def _vits(self) -> list[Any]:
        return [backbone.model for backbone in self.backbones.values()]

    def classify(self, images: dict[str, Tensor]) -> Tensor:
        """See Classifier."""
        logits: Tensor = self.head(self.norm(self.fuse(images)))
        return logits

    def fuse(self, images: dict[str, Tensor]) -> Tensor:
        """Every input to the last synchronised class token [B D], before the final norm."""
        vits = self._vits
        tokens = [_embed(vit, stack_of(name, images)) for name, vit in zip(self.backbones, vits, strict=True)]
        for level in range(self.depth):
            tokens = [vit.blocks[level](z) for vit, z in zip(vits, tokens, strict=True)]
            fusion = self.fusions[level % len(self.fusions)]  # one or one for each
            fused = fusion(torch.cat([z[:, 0] for z in tokens], dim=1))  # [B D]
            tokens = [torch.cat([fused[:, None], z[:, 1:]], dim=1) for z in tokens]
        return tokens[0][:, 0]


def _embed(vit: Any, x: Tensor) -> Tensor:
    """[B C px px] to tokens [B 1+N D] with positions, the class token first."""
    tokens: Tensor = vit.norm_pre(vit._pos_embed(vit.patch_embed(x)))
    return tokens


def _common_shape(backbones: Sequence[Backbone]) -> tuple[int, int]:
    """Width and depth of the ViTs."""
    for backbone in backbones:
        if not is_plain_vit(backbone.model):
            raise ValueError(
                f"SCT Fusion got the backbone {backbone.architecture!r} with {backbone.model_args} for "
                f"{backbone.sensor!r}, expected a plain ViT of timm whose class token is pooled. Set backbone.name to "
                "vit_sct, or pretrain one with it."
            )
    shapes = {one.sensor: (one.num_features, len(one.model.blocks)) for one in backbones}  # type: ignore[arg-type]
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"SCT Fusion got ViTs of (width, depth) {shapes}, expected the same of all: class tokens are exchanged "
            "after every block. Patch size, heads and px may differ; set embed_dim and depth in backbone.args alike."
        )
    return next(iter(shapes.values()))


@torch.no_grad()
def _mean_norm(norms: Sequence[nn.Module]) -> nn.Module:
    mean = copy.deepcopy(norms[0])
    for parameter, *of_norms in zip(mean.parameters(), *[norm.parameters() for norm in norms], strict=True):
        parameter.copy_(torch.stack(of_norms).mean(dim=0))
    return mean


@torch.no_grad()
def _start_as_mean_(fusion: nn.Linear) -> None:
    num = fusion.in_features // fusion.out_features
    fusion.weight.copy_((torch.eye(fusion.out_features) / num).repeat(1, num))
    fusion.bias.zero_()
