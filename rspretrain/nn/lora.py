"""LoRA adapters on frozen backbones, by Hugging Face's peft, merged into the weights at the end.

Hu et al. 2021 (arXiv 2106.09685), eq. 3: W x + (alpha / r) B A x, A [r in] random and B [out r] zero, so an adapted
network starts bit-equal to the original. For a convolution, A has its kernel size and B a kernel of 1 x 1.
"""

import re

from torch import nn

from rspretrain.nn.backbones import Backbone

# timm's names of the query, key and value projections and of the output projection of attention.
_ATTENTION = re.compile(r"(.+\.)?attn\.(qkv|proj|[qkv](_proj)?)")


def add_adapters_(
    backbone: Backbone, rank: int, alpha: float, dropout: float = 0.0, targets: tuple[str, ...] | None = None
) -> None:
    """Add trainable adapters to the layers of `adapted_layers`, initialised from torch's global generator.

    ValueError if peft is not installed, and as in `adapted_layers`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(
            f"tune.mode=lora: peft does not import ({error}), expected peft >= 0.21. Run pip install "
            "'rspretrain[lora]', or set tune.mode to partial or full."
        ) from error
    names = "|".join(re.escape(name) for name in adapted_layers(backbone, targets))
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
    inject_adapter_in_model(config, backbone.model)


def adapted_layers(backbone: Backbone, targets: tuple[str, ...] | None = None) -> list[str]:
    """Names of the layers in `backbone.model` whose name ends with one of `targets`.

    Without targets: the query, key, value and output projections of every attention, or all convolutions if there is no
    attention. Grouped convolutions are skipped, because their adapters cannot be merged.
    ValueError if a target matches no layer, or the network has none to adapt.
    """
    layers = {name: layer for name, layer in backbone.model.named_modules() if _can_be_adapted(layer)}
    if targets is None:
        attention = [name for name in layers if _ATTENTION.fullmatch(name)]
        found = attention or [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
        unknown = [] if found else ["attention", "convolutions"]
    else:
        found = [name for name in layers if any(_ends_with(name, target) for target in targets)]
        unknown = [target for target in targets if not any(_ends_with(name, target) for name in layers)]
    if unknown:
        ends = sorted({name.rpartition(".")[2] for name in layers})
        raise ValueError(
            f"tune.lora_targets: got {unknown}, which match no layer of {backbone.architecture!r}, expected name "
            f"endings of its Linear layers and ungrouped convolutions. Set tune.lora_targets to some of {ends}."
        )
    return found


def merge_adapters_(backbone: Backbone) -> None:
    """Merge adapters into the weights and restore the original parameter names; no effect without adapters."""
    if not any(".lora_A." in name for name, _ in backbone.model.named_parameters()):
        return  # without importing peft, which may not be installed
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(backbone.model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            backbone.model.set_submodule(name, layer.get_base_layer())
    vars(backbone.model).pop("peft_config")


def _can_be_adapted(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def _ends_with(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")
