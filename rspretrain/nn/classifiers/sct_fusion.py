"""SCT Fusion: one ViT per sensor; after every block the class tokens are fused, and all ViTs continue with the result.

Hoffmann, Clasen, Demir 2023 (arXiv 2306.01523), eq. 1; docs/methods.md, SCT Fusion. Z^j: tokens of sensor j, Z^j_0 its
class token.

    Z^j = [cls^j ; patches^j] + pos^j                   for every sensor j of N
    for l = 1 … depth:
        Z^j   <- Block_l^j(Z^j)                         timm's blocks, separate weights per sensor
        c     =  W_l [Z^1_0 ; … ; Z^N_0] + b_l          Linear(N D -> D)
        Z^j_0 <- c                                      patch tokens stay
    logits = Linear(D, K)(LayerNorm(c))

Our choices where the paper is silent: every block has its own fusion (the paper writes one W and repeats the process;
`share_fusion` is the other reading); W_l is initialised to [I/N … I/N], the mean; the single final LayerNorm, on c, is
initialised to the mean of the backbones' norms. With one sensor the result equals timm's ViT bit for bit. The class
token comes first, as in timm; the paper appends it, which makes no difference to attention. Sensors are in the order of
the backbones.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone, is_plain_vit, with_drop_path
from rspretrain.nn.classifiers.base import Classifier, ClassifierSettings, input_bands, input_px, stack_inputs


class SctSettings(ClassifierSettings):
    """Fusion of class tokens; the ViTs have their own settings."""

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
    """Any number of ViTs of equal width and depth; sensor, bands, patch, heads and px may differ. See Classifier.

    The backbones, random or pretrained, are copied and not changed. The copies in `self.backbones` have no final norm
    and are not for export. ValueError if one is not a plain ViT, or widths or depths differ, and as in `input_bands`.
    """

    Settings = SctSettings

    def __init__(
        self,
        settings: SctSettings,
        backbones: Sequence[Backbone],
        num_classes: int,
        bands: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`bands`: sensor -> its bands, required if a backbone has several sensors."""
        super().__init__(input_bands(backbones, bands), input_px(backbones), num_classes)
        width, depth = _common_shape(backbones)
        self.backbones.update({one.sensor: with_drop_path(one, settings.drop_path) for one in backbones})
        self.norm = _mean_norm([vit.norm for vit in self._vits])
        for vit in self._vits:
            vit.norm = nn.Identity()  # an unused norm has no gradient, which is an error under DDP
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
        """The last fused class token [B D], before the final norm."""
        vits = self._vits
        tokens = [_embed(vit, stack_inputs(name, images)) for name, vit in zip(self.backbones, vits, strict=True)]
        for level in range(self.depth):
            tokens = [vit.blocks[level](z) for vit, z in zip(vits, tokens, strict=True)]
            fusion = self.fusions[level % len(self.fusions)]  # one for all blocks, or one per block
            fused = fusion(torch.cat([z[:, 0] for z in tokens], dim=1))  # [B D]
            tokens = [torch.cat([fused[:, None], z[:, 1:]], dim=1) for z in tokens]
        return tokens[0][:, 0]


def _embed(vit: Any, x: Tensor) -> Tensor:
    """Tokens [B 1+N D] with positions, the class token first, of x [B C px px]."""
    tokens: Tensor = vit.norm_pre(vit._pos_embed(vit.patch_embed(x)))
    return tokens


def _common_shape(backbones: Sequence[Backbone]) -> tuple[int, int]:
    """Width and depth of the ViTs."""
    for backbone in backbones:
        if not is_plain_vit(backbone.model):
            raise ValueError(
                f"SCT Fusion got the backbone {backbone.architecture!r} with {backbone.model_args} for "
                f"{backbone.sensor!r}, expected a plain timm ViT with class-token pooling. Set backbone.name to "
                "vit_sct, or pretrain a backbone with it."
            )
    shapes = {one.sensor: (one.num_features, len(one.model.blocks)) for one in backbones}  # type: ignore[arg-type]
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"SCT Fusion got ViTs of (width, depth) {shapes}, expected equal values: class tokens are fused after "
            "every block. Patch size, heads and px may differ; set the same embed_dim and depth in backbone.args."
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
