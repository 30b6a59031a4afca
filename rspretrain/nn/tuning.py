"""Trainable parameters of a classifier and their learning rates. Head and fusion layers always train.

    mode       trainable in the backbones
    full       everything
    scratch    everything, from random weights
    linear     nothing; frozen features keep no graph
    partial    the last blocks and everything after them
    lora       adapters on frozen weights (nn/lora.py)

Frozen modules stay in eval mode (Classifier.train). Layer-wise learning-rate decay follows BEiT (Bao et al. 2021) and
MAE (He et al. 2021, A.2): with the stem as layer 0, blocks as 1 … L, and final norm and head as L + 1, the rate of
layer l is multiplied by layer_decay ** (L + 1 - l). For CNNs and Swin a block is a stage.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from rspretrain.nn.backbones import Backbone, layer_ids
from rspretrain.nn.classifiers import Classifier
from rspretrain.nn.lora import add_adapters_, merge_adapters_
from rspretrain.settings import Settings

Mode = Literal["full", "linear", "partial", "lora", "scratch"]

# Modes in which a setting has an effect.
_MODES: dict[str, tuple[Mode, ...]] = {
    "layer_decay": ("full",),
    "backbone_lr_scale": ("full", "partial", "lora", "scratch"),
    "blocks": ("partial",),
    "lora_rank": ("lora",),
    "lora_alpha": ("lora",),
    "lora_dropout": ("lora",),
    "lora_targets": ("lora",),
}


class TuneSettings(Settings):
    """Trainable parameters and their learning rates. A setting without effect in the mode is an error."""

    mode: Mode = Field(
        default="full",
        description="Trainable parameters. full: all; linear: the classifier only; partial: the classifier "
        "and the last blocks; lora: the classifier and LoRA adapters; scratch: all, from random "
        "weights.",
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="Factor on the learning rate from each layer to the layer below; mode full.",
    )
    backbone_lr_scale: float = Field(
        default=1.0, gt=0.0, description="Factor on the learning rate of the backbones; not in mode linear."
    )
    blocks: int = Field(
        default=1,
        ge=1,
        description="Number of trainable last blocks (ViT) or stages (CNN, Swin) per backbone; mode partial.",
    )
    lora_rank: int = Field(default=8, ge=1, description="Rank r of the adapters; mode lora.")
    lora_alpha: float = Field(
        default=16.0,
        gt=0.0,
        description="Scale of the adapters, whose output is multiplied by lora_alpha / lora_rank; mode lora.",
    )
    lora_dropout: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="Dropout rate on the inputs of the adapters; mode lora."
    )
    lora_targets: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Name suffixes of the layers with adapters; mode lora. null: qkv and proj of every "
        "attention, or all convolutions of a network without attention.",
    )

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> Self:
        for name, modes in _MODES.items():
            value = getattr(self, name)
            if self.mode not in modes and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"tune.{name}: got {value} with tune.mode={self.mode}, where it has no effect; expected mode "
                    f"{' or '.join(modes)}. Remove tune.{name}, or set tune.mode={modes[0]}."
                )
        return self


def tune_(classifier: Classifier, settings: TuneSettings) -> None:
    """Freeze parameters, add adapters and set learning-rate factors; call it once, before the optimizer is created.

    ValueError if the mode needs backbones and there are none, a backbone has fewer than `settings.blocks` blocks,
    `lora_targets` match no layer, or peft is missing for mode lora.
    """
    if not classifier.backbones:
        _check_without_backbones(classifier, settings)
    for name, backbone in classifier.backbones.items():
        assert isinstance(backbone, Backbone)
        _freeze_(backbone, settings)
        prefix = f"backbones.{name}.model."
        classifier.lr_factors |= {prefix + key: factor for key, factor in _lr_factors(backbone, settings).items()}
    classifier.train(classifier.training)


def merge_(classifier: Classifier) -> None:
    """Merge adapters into the weights: equal outputs, and the state-dict names of a classifier without adapters.

    Tensors must not be sharded: use a copy with `strategy.weights()`. Frozen parameters stay frozen.
    """
    for backbone in classifier.backbones.values():
        assert isinstance(backbone, Backbone)
        merge_adapters_(backbone)
    known = {name for name, _ in classifier.named_parameters()}
    classifier.lr_factors = {name: factor for name, factor in classifier.lr_factors.items() if name in known}


def _freeze_(backbone: Backbone, settings: TuneSettings) -> None:
    match settings.mode:
        case "linear":
            backbone.requires_grad_(False)
        case "partial":
            _freeze_below_(backbone, settings.blocks)
        case "lora":
            backbone.requires_grad_(False)
            add_adapters_(
                backbone, settings.lora_rank, settings.lora_alpha, settings.lora_dropout, settings.lora_targets
            )


def _freeze_below_(backbone: Backbone, blocks: int) -> None:
    """Freeze the stem and all but the last blocks."""
    layers, depth = layer_ids(backbone)
    if blocks > depth:
        raise ValueError(
            f"tune.blocks: got {blocks} for the backbone {backbone.sensor!r}, expected at most its {depth} blocks "
            f"({backbone.architecture}). Set tune.blocks to {depth} or less, or tune.mode=full."
        )
    for name, parameter in backbone.model.named_parameters():
        if layers[name] <= depth - blocks:
            parameter.requires_grad_(False)


def _lr_factors(backbone: Backbone, settings: TuneSettings) -> dict[str, float]:
    """Trainable parameter of `backbone.model` -> learning-rate factor relative to the head, if it is not 1."""
    names = [name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad]
    scale, decay = settings.backbone_lr_scale, settings.layer_decay
    factors = dict.fromkeys(names, scale)
    if decay != 1.0:
        layers, depth = layer_ids(backbone)
        factors = {name: scale * decay ** (depth + 1 - layers[name]) for name in names}
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def _check_without_backbones(classifier: Classifier, settings: TuneSettings) -> None:
    kind = type(classifier).__name__
    if settings.mode not in ("full", "scratch"):
        raise ValueError(
            f"tune.mode: got {settings.mode} for {kind}, which has no backbone to freeze, expected full or scratch. "
            "Set tune.mode=scratch, or choose a classifier with backbones (linear, sct_fusion)."
        )
    for name in ("layer_decay", "backbone_lr_scale"):
        value = getattr(settings, name)
        if value != 1.0:
            raise ValueError(
                f"tune.{name}: got {value} for {kind}, which has no backbone, expected 1.0. Remove tune.{name}, or "
                "choose a classifier with backbones (linear, sct_fusion)."
            )
