"""Tokens of a timm ViT: with masked patches, for masked image modelling; of several blocks, as features for probes.

The exported backbone is the timm model inside: without mask, the class token is its feature, bit for bit. Blocks and
patch embedding are called by `__call__`, because FSDP2 and DeepSpeed hook it.
"""

from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone, is_plain_vit


@final
class MaskedViT(nn.Module):
    """Class token [B D] and patch tokens [B N D] of x [B C px px], optionally with masked patches.

    `mask` [B N] bool, True: masked. The mask token replaces the embedding of a masked patch before positions are added
    (docs/methods.md, GSC-MIM). `kept` [B n] int64: only these patches enter the blocks, and the patch tokens are
    [B n D] (MAE). For networks that see whole images, such as teachers, set `mask_token` to None; the module then has
    only the backbone's parameters. ValueError unless the backbone is a ViT with class-token pooling.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        check_plain_vit(backbone)
        self.backbone = backbone
        # [D]: one-dimensional, so weight decay skips it. Zeros as in iBOT.
        self.mask_token: nn.Parameter | None = nn.Parameter(torch.zeros(backbone.num_features))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; N is their product, in row-major order."""
        rows, columns = self._model.patch_embed.grid_size
        return rows, columns

    @property
    def _model(self) -> Any:
        return self.backbone.model

    def forward(self, x: Tensor, mask: Tensor | None = None, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the class. With a mask, the mask token always has a gradient: zeros if no patch is masked."""
        tokens = self.embed(x, mask)
        if kept is not None:
            prefix, patches = tokens.tensor_split([self._model.num_prefix_tokens], dim=1)
            tokens = torch.cat([prefix, patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))], dim=1)
        return self.encode(tokens)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens [B P+N D] with positions, before the first block: P prefix tokens, the class token first."""
        patches = self._model.patch_embed(x)  # [B N D], or [B rows columns D]
        if mask is not None:
            assert self.mask_token is not None, "A network without mask token cannot mask patches."
            hidden = mask.view(*patches.shape[:-1], 1)
            patches = torch.where(hidden, self.mask_token.to(patches.dtype), patches)
        tokens: Tensor = self._model.norm_pre(self._model._pos_embed(patches))
        return tokens

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Class token [B D] and patch tokens [B n D] after blocks and norm, from tokens [B P+n D] of `embed`."""
        tokens = self._model.norm(self._model.blocks(tokens))
        return tokens[:, 0], tokens[:, self._model.num_prefix_tokens :]


FeatureKind = Literal["cls4", "cls_patches"]


@final
class TokenFeatures(nn.Module):
    """Features [B W] of DINO's and iBOT's linear evaluation, after the final norm (docs/methods.md, Linear evaluation).

    `cls4`: class tokens of the last four blocks, W = 4 D, used for ViT-S. `cls_patches`: class token and mean patch
    token of the last block, W = 2 D, used for ViT-B and ViT-L. ValueError unless the backbone is a ViT with class-token
    pooling, and has four blocks for `cls4`.
    """

    def __init__(self, backbone: Backbone, kind: FeatureKind) -> None:
        super().__init__()
        check_plain_vit(backbone)
        self.backbone, self.kind, self.px = backbone, kind, backbone.px
        self.num_blocks = 4 if kind == "cls4" else 1
        model: Any = backbone.model
        if len(model.blocks) < self.num_blocks:
            raise ValueError(
                f"Backbone {backbone.architecture!r} has {len(model.blocks)} blocks, expected at least four for the "
                "features cls4. Use cls_patches."
            )
        self.num_features = backbone.num_features * (4 if kind == "cls4" else 2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        model: Any = self.backbone.model
        found = model.forward_intermediates(
            x, indices=self.num_blocks, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )  # per block: patch tokens [B N D] and prefix tokens [B P D], the class token first
        classes = [prefix[:, 0] for _, prefix in found]
        return torch.cat(classes if self.kind == "cls4" else [classes[-1], found[-1][0].mean(dim=1)], dim=1)


def default_features(backbone: Backbone) -> FeatureKind:
    """iBOT's choice for a network of this width: `cls4` up to the 384 of ViT-S."""
    return "cls4" if backbone.num_features <= 384 else "cls_patches"


def check_plain_vit(backbone: Backbone) -> None:
    """Raise ValueError unless the backbone is a ViT with class-token pooling and a token for every patch."""
    if not is_plain_vit(backbone.model):
        raise ValueError(
            f"Backbone {backbone.architecture!r} with {backbone.model_args} is not a plain ViT, expected timm's "
            "VisionTransformer with class-token pooling and without patch dropout. Set backbone.name to "
            "vit_small_patch16_224, vit_base_patch16_224 or vit_large_patch16_224."
        )
