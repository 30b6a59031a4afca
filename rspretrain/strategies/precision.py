"""Precision of the forward and backward pass: bf16 on devices with bf16 hardware, else fp32.

A CPU without bf16 instructions emulates it, which is 10 to 25 times slower than fp32.
"""

from typing import Literal

import torch

from rspretrain import world

Precision = Literal["auto", "fp32", "bf16"]


def bf16_hardware(device: torch.device) -> str:
    """The bf16 hardware of a device, such as "AVX512-BF16"; empty if there is none."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device) if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    # torch has no public function for these two.
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else ""


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """`precision`, with `auto` replaced by bf16 if all ranks have bf16 hardware, else by fp32. Collective."""
    if precision != "auto":
        return precision
    without = world.sum_over_ranks(torch.tensor(int(not bf16_hardware(device))))
    return "fp32" if without.item() else "bf16"


def precision_text(precision: Precision, device: torch.device) -> str:
    """The precision as a log line, with a warning if bf16 is emulated on this device."""
    unit = bf16_hardware(device)
    if precision == "bf16" and not unit:
        missing = "a CPU without AMX or AVX512-BF16" if device.type == "cpu" else "a GPU without bf16 units"
        return (
            f"Warning: strategy.precision is bf16 on {missing}, where it is emulated and 8 to 24 times slower than "
            "fp32; set strategy.precision=auto."
        )
    if precision == "bf16":
        return f"Precision: bf16 ({unit})."
    return "Precision: fp32." if unit else "Precision: fp32 (no bf16 hardware on this device)."
