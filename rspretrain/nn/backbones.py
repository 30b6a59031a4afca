"""timm backbones for any number of bands, randomly initialised, with the sensor, bands and input size they are for.

Only this module and drop_path.py import timm. ViTs are built for one input size (`img_size`); CNNs take any size.
"""

import difflib
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, final

import torch
from pydantic import Field
from torch import Tensor, nn

from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.settings import Settings

ensure_torchvision()
import timm
from timm.layers import DropPath
from timm.models import VisionTransformer, get_pretrained_cfg
from timm.models._manipulate import MATCH_PREV_GROUP, group_with_matcher
from timm.models.vision_transformer import Block

# Our own names -> (timm architecture, arguments). `vit_sct`: see docs/methods.md, SCT Fusion.
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_sct": ("vit_base_patch16_224", {"patch_size": 15, "embed_dim": 256, "depth": 8, "num_heads": 8}),
}


class BackboneSettings(Settings):
    """Architecture of the backbone, the same for every sensor."""

    name: str = Field(
        default="resnet18",
        description="timm architecture, such as resnet18 or vit_small_patch16_224, or vit_sct (the small ViT "
        "of SCT Fusion).",
    )
    drop_path: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="Stochastic depth rate of the last block, linear from 0 at the first block; drawn per sample.",
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Further arguments of timm.create_model.")


@final
class Backbone(nn.Module):
    """A timm model without classifier: [B C px px] to pooled features [B D], C the bands of `sensor`."""

    def __init__(
        self, sensor: str, bands: tuple[str, ...], px: int, architecture: str, model_args: dict[str, Any]
    ) -> None:
        super().__init__()
        self.sensor, self.bands, self.px = sensor, bands, px
        self.architecture, self.model_args = architecture, model_args
        self.model: nn.Module = timm.create_model(architecture, pretrained=False, **model_args)
        self.is_convolutional = not has_fixed_size(architecture)
        self.num_features = self._measure_width()

    def _measure_width(self) -> int:
        """D of the pooled features. timm's `num_features` is the width of the last map; some heads are wider."""
        return int(getattr(self.model, "head_hidden_size", None) or self.model.num_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor, pool: bool = True) -> Tensor:
        """Pooled features [B D], or the feature map [B D h w], of normalised images x [B C px px] with `self.bands`."""
        if self.training and self.is_convolutional:
            # 18 % faster for ResNet-18 at 64 px on a CPU, and the layout that tensor cores need. Not in evaluation,
            # where features are bit-equal to those of timm's own model on the same tensor.
            x = x.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.model(x) if pool else self.model.forward_features(x)  # type: ignore[operator]
        return features


def disable_dropout_(module: nn.Module) -> None:
    """Disable dropout and stochastic depth permanently, also in train mode, which BatchNorm needs."""
    for part in module.modules():
        if isinstance(part, DropPath):
            part.drop_prob = 0.0
        elif isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0


def frozen_modules(backbone: Backbone) -> Iterator[nn.Module]:
    """Modules whose parameters are all frozen, and parameterless modules before the first trainable one.

    The latter include a ViT's dropouts between embedding and blocks.
    """
    yield from takewhile(lambda part: not any(p.requires_grad for p in part.parameters()), backbone.model.children())
    for part in backbone.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            yield part


def layer_ids(backbone: Backbone) -> tuple[dict[str, int], int]:
    """Parameter of `backbone.model` -> layer id, and the depth L. 0: stem; 1 … L: blocks; L + 1: everything after them.

    Blocks are a ViT's blocks or the stages of a CNN or Swin, in timm's grouping. A norm after the last block has id
    L + 1, as in BEiT and MAE; timm counts it to L. ValueError if timm defines no groups.
    """
    matcher = getattr(backbone.model, "group_matcher", None)
    if matcher is None:
        raise ValueError(
            f"Backbone {backbone.architecture!r} has no layer groups in timm, expected a network with blocks or "
            "stages. Set tune.mode to linear or lora, or to full with tune.layer_decay=1.0."
        )
    named = [*backbone.model.named_parameters(), ("", None)]  # "" matches no pattern, so it lands in the last layer
    groups = matcher(coarse=True)
    layers: dict[str, int] = group_with_matcher(named, groups, reverse=True)
    by_block: dict[str, int] = group_with_matcher(named, _without_followers(groups), reverse=True)
    last, follows = layers.pop(""), by_block.pop("")
    moved = {name: last for name, layer in layers.items() if layer == last - 1 and by_block[name] == follows}
    return layers | moved, last - 1


def _without_followers(groups: Any) -> Any:
    """timm's patterns without those that assign a module to the previous block; a few networks have a function."""
    if not isinstance(groups, dict):
        return groups
    return {
        name: [one for one in some if one[1] != MATCH_PREV_GROUP] if isinstance(some, (list, tuple)) else some
        for name, some in groups.items()
    }


def with_drop_path(backbone: Backbone, rate: float) -> Backbone:
    """A copy with the same weights and stochastic depth that rises from 0 at the first block to `rate` at the last."""
    args = {**backbone.model_args, "drop_path_rate": rate}
    copy = Backbone(backbone.sensor, backbone.bands, backbone.px, backbone.architecture, args)
    copy.model.load_state_dict(backbone.model.state_dict())
    return copy.to(next(backbone.parameters()).device).train(backbone.training)


def has_fixed_size(architecture: str) -> bool:
    """Whether the network is built for one input size, as ViT (position embeddings) and Swin (windows) are."""
    cfg = get_pretrained_cfg(architecture, allow_unregistered=True)
    return bool(cfg is not None and cfg.fixed_input_size)


def transformer_blocks(width: int, depth: int, heads: int) -> nn.Sequential:
    """timm's ViT blocks alone, for decoders: [B N width] to [B N width]."""
    return nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))


@torch.no_grad()
def check_feature_map(backbone: Backbone) -> None:
    """Raise ValueError unless the feature is the spatial mean of a map; ViTs and heads with layers have none."""
    was_training, x = backbone.training, torch.ones(1, len(backbone.bands), backbone.px, backbone.px)
    backbone.eval()
    found, pooled = backbone(x, pool=False), backbone(x)
    backbone.train(was_training)
    if (
        found.dim() != 4
        or found.shape[1] != backbone.num_features
        or not torch.allclose(found.mean((2, 3)), pooled, atol=1e-5)
    ):
        raise ValueError(
            f"Backbone {backbone.architecture!r} pools {list(found.shape)} to {list(pooled.shape)}, expected a feature "
            "map [B D h w] whose mean is the feature. Set backbone.name to a ResNet, or to another CNN with mean "
            "pooling and no layers after it."
        )


def is_plain_vit(model: nn.Module) -> bool:
    """Whether the model is timm's VisionTransformer with class-token pooling and without patch dropout."""
    if type(model) is not VisionTransformer:
        return False
    return bool(model.has_class_token and model.global_pool == "token" and isinstance(model.patch_drop, nn.Identity))


def create_backbone(settings: BackboneSettings, sensor: str, bands: tuple[str, ...], px: int) -> Backbone:
    """A randomly initialised backbone; the weights depend on torch's global seed only.

    ValueError if the name is unknown, or the patch size does not divide `px` (input size in pixels).
    """
    architecture, named_args = NAMED.get(settings.name, (settings.name, {}))
    check_architecture(architecture)
    args: dict[str, Any] = {**named_args, **settings.args, "in_chans": len(bands), "num_classes": 0}
    if has_fixed_size(architecture):
        args["img_size"] = px
    if settings.drop_path:
        args["drop_path_rate"] = settings.drop_path
    patch = patch_size(architecture, args)
    if patch and px % patch:
        low = max(px // patch, 1) * patch
        raise ValueError(
            f"Backbone {settings.name!r} has patches of {patch} pixels, but px={px} is not a multiple of {patch}. "
            f"Set the objective's px to {low} or {low + patch}, or choose another backbone."
        )
    return Backbone(sensor, bands, px, architecture, args)


def check_architecture(architecture: str) -> None:
    """Raise ValueError with the nearest names if timm does not know the architecture."""
    if not timm.is_model(architecture):
        known = [*NAMED, *timm.list_models()]
        nearest = difflib.get_close_matches(architecture, known, n=3, cutoff=0.4)
        raise ValueError(
            f"Unknown backbone {architecture!r}: expected `vit_sct` or an architecture of timm {timm.__version__}. "
            f"Nearest: {', '.join(nearest) or 'none'}."
        )


def patch_size(architecture: str, args: dict[str, Any]) -> int | None:
    """Patch size of a ViT in pixels, from the arguments or from timm's naming rule; None for other networks."""
    if "patch_size" in args:
        return int(args["patch_size"])
    for part in architecture.split("_"):
        if part.startswith("patch") and part[5:].isdigit():
            return int(part[5:])
    return None
