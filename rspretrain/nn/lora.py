"""Adapters: weights of low rank beside frozen ones, by Hugging Face's peft, and folded into them at the end.

Hu et al. 2021 (arXiv 2106.09685), eq. 3: W x + (alpha / r) B A x, with A [r in] at random and B [out r] at 0, so that
an adapted network starts as the network itself, bit for bit. A convolution's A has its kernel, its B one of 1 x 1.
"""

import re

from torch import nn

from rspretrain.nn.backbones import Backbone

# timm's names of what makes queries, keys and values of tokens, and of what follows the attention.
_ATTENTION = re.compile(r"(.+\.)?attn\.(qkv|proj|[qkv](_proj)?)")


def add_adapters_(
    backbone: Backbone, rank: int, alpha: float, dropout: float = 0.0, targets: tuple[str, ...] | None = None
) -> None:
    """Adapters beside the layers that `adapted_layers` names; only they train. Drawn from torch's global generator.

    ValueError where peft is not installed, and as `adapted_layers`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(
            f"tune.mode=lora got no peft ({error}), expected peft >= 0.21 beside this package. Run pip install "
            "'rspretrain[lora]', or set tune.mode to partial or full."
        ) from error
    names = "|".join(re.escape(name) for name in adapted_layers(backbone, targets))
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names)
    inject_adapter_in_model(config, backbone.model)


def adapted_layers(backbone: Backbone, targets: tuple[str, ...] | None = None) -> list[str]:
    """Names in `backbone.model` of the layers whose name ends with one of `targets`.

    Without targets: queries, keys, values and projections of every attention; all convolutions where there is no
    attention. Grouped convolutions are left out, as their adapters cannot be folded in.
    ValueError where a target, or the whole network, has no such layer.
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
            f"tune.lora_targets: got {unknown}, which no layer of {backbone.architecture!r} has, expected ends of the "
            f"names of its Linears and ungrouped convolutions. They end with {ends}; set tune.lora_targets to some."
        )
    return found


def merge_adapters_(backbone: Backbone) -> None:
    """Adapters folded into the weights beside them, names as before them; nothing where there are none."""
    if not any(".lora_A." in name for name, _ in backbone.model.named_parameters()):
        return  # peft need not be installed
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
