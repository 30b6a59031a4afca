"""A timm ViT's tokens: some of them hidden, for masked image models; of several blocks, as features that are probed.

The timm model inside stays the backbone that is exported: unmasked, the class token is its feature, bit for bit. Blocks
and the patch embedding are entered by `__call__`, which is what FSDP2 and DeepSpeed hook.
"""

from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import Backbone, is_plain_vit


@final
class MaskedViT(nn.Module):
    """[B C px px] and, if some are hidden, [B N] bool (True: hidden) to class token [B D] and patch tokens [B N D].

    With `kept` [B n] int64, no other patches exist for the blocks, and the patch tokens are theirs [B n D] (MAE).
    A hidden patch's embedding is replaced by the mask token before positions are added (methods.md C.3). For a network
    that hides nothing, as teachers are, set `mask_token` to None: it then has no parameters but the backbone's.
    ValueError where the backbone is no ViT that pools by its class token.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        check_plain_vit(backbone)
        self.backbone = backbone
        # [D]: of one dimension, so weight decay leaves it alone. Zeros as in iBOT.
        self.mask_token: nn.Parameter | None = nn.Parameter(torch.zeros(backbone.num_features))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; N is their product, counted row by row."""
        rows, columns = self._model.patch_embed.grid_size
        return rows, columns

    @property
    def _model(self) -> Any:
        return self.backbone.model

    def forward(self, x: Tensor, mask: Tensor | None = None, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the class. With a mask, the mask token has a gradient always: zeros where nothing is hidden."""
        tokens = self.embed(x, mask)
        if kept is not None:
            prefix, patches = tokens.tensor_split([self._model.num_prefix_tokens], dim=1)
            tokens = torch.cat([prefix, patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))], dim=1)
        return self.encode(tokens)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B P+N D] tokens with positions before the first block: P prefix tokens, the first the class token."""
        patches = self._model.patch_embed(x)  # [B N D], or [B rows columns D]
        if mask is not None:
            assert self.mask_token is not None, "A network without mask token hides nothing."
            hidden = mask.view(*patches.shape[:-1], 1)
            patches = torch.where(hidden, self.mask_token.to(patches.dtype), patches)
        tokens: Tensor = self._model.norm_pre(self._model._pos_embed(patches))
        return tokens

    def encode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B P+n D] of `embed`, all or those of some patches, through blocks and norm: [B D] and [B n D]."""
        tokens = self._model.norm(self._model.blocks(tokens))
        return tokens[:, 0], tokens[:, self._model.num_prefix_tokens :]


FeatureKind = Literal["cls4", "cls_patches"]


@final
class TokenFeatures(nn.Module):
    """[B C px px] to [B W]: what DINO's and iBOT's eval_linear.py probe (methods.md C.8), after the final norm.

    `cls4`: the class tokens of the last four blocks, W = 4 D, as for ViT-S. `cls_patches`: the class token of the last
    block and the mean of its patch tokens, W = 2 D, as for ViT-B and ViT-L. ValueError where the backbone is no ViT
    that pools by its class token, or has fewer than four blocks for `cls4`.
    """

    def __init__(self, backbone: Backbone, kind: FeatureKind) -> None:
        super().__init__()
        check_plain_vit(backbone)
        self.backbone, self.kind, self.px = backbone, kind, backbone.px
        self.num_blocks = 4 if kind == "cls4" else 1
        model: Any = backbone.model
        if len(model.blocks) < self.num_blocks:
            raise ValueError(
                f"Backbone {backbone.architecture!r} has {len(model.blocks)} blocks, expected four at least for the "
                "features cls4. Take cls_patches."
            )
        self.num_features = backbone.num_features * (4 if kind == "cls4" else 2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        model: Any = self.backbone.model
        found = model.forward_intermediates(
            x, indices=self.num_blocks, norm=True, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )  # of every block [B N D] patch tokens and [B P D] prefix tokens, the first of them the class token
        classes = [prefix[:, 0] for _, prefix in found]
        return torch.cat(classes if self.kind == "cls4" else [classes[-1], found[-1][0].mean(dim=1)], dim=1)


def usual_features(backbone: Backbone) -> FeatureKind:
    """What iBOT takes for a network of this width: `cls4` up to ViT-S's 384."""
    return "cls4" if backbone.num_features <= 384 else "cls_patches"


def check_plain_vit(backbone: Backbone) -> None:
    """ValueError where there is no class token that is the feature, or not a token for every patch."""
    if not is_plain_vit(backbone.model):
        raise ValueError(
            f"Backbone {backbone.architecture!r} with {backbone.model_args} is not a plain ViT, expected one of timm's "
            "VisionTransformer with a class token that is pooled and without patch dropout: masked objectives hide its "
            "patch tokens. Set backbone.name to vit_small_patch16_224, vit_base_patch16_224 or vit_large_patch16_224."
        )
