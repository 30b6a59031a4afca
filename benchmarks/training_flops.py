"""Operations of a step, counted by torch and by formula for ViTs, and the peak rate of the device.

A multiply-add counts as two operations. As usual for MFU, only matrix products and convolutions count, and
recomputation by kernels or activation checkpointing does not.
"""

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Clock = Callable[[], float]  # seconds

# Dense bf16 operations per second from the vendors' data sheets. The first key in the device's name counts.
GPU_PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200": 989e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A40": 150e12,
    "L40S": 362e12,
    "L4": 121e12,
}
SIDE = 2048  # size of the matrices that measure a CPU's peak


def count(run: Callable[[], object]) -> int:
    """Operations of matrix products and convolutions in `run`, forward and backward.

    Attention is computed by its two products: torch 2.13 counts nothing for the fused CPU kernel, and recomputation in
    the backward of GPU kernels, too.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def vit(model: nn.Module, images: int, *, trained: bool) -> int:
    """Operations of a timm ViT with class token: the forward and, if trained, twice that for the backward.

    The patch embedding has half a backward, because pixels need no gradient.
    """
    embedding, block = model.patch_embed.proj, model.blocks[0]
    patches, tokens, width = model.patch_embed.num_patches, model.pos_embed.shape[1], model.embed_dim
    embed = 2 * patches * embedding.weight.numel()
    linear = 2 * tokens * (4 * width**2 + 2 * width * block.mlp.fc1.out_features)  # q, k, v, out; two of the MLP
    attention = 2 * 2 * tokens**2 * width  # q k', and its product with v
    blocks = len(model.blocks) * (linear + attention)
    return images * (2 * embed + 3 * blocks if trained else embed + blocks)


def mlp(module: nn.Module, rows: int, *, trained: bool) -> int:
    """Operations of the linear layers of a head; if trained, its input has a gradient."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    return (3 if trained else 1) * 2 * rows * sum(layer.weight.numel() for layer in layers)


def formula(objective: nn.Module, batch: int) -> int | None:
    """Operations of a step's networks on `batch` samples of one sensor; None for cases without a formula."""
    kind = type(objective).__name__
    if kind == "Simclr" and hasattr(objective.encoder.model, "blocks"):
        return vit(objective.encoder.model, 2 * batch, trained=True) + mlp(objective.head, 2 * batch, trained=True)
    if kind not in ("Byol", "MocoV3") or len(objective.student) != 1:
        return None
    (student,), (predictor,) = objective.student.values(), objective.predictor.values()
    if not hasattr(student.encoder.model, "blocks"):
        return None
    total = mlp(predictor, 2 * batch, trained=True)
    for trained in (True, False):  # student and teacher, two views each
        total += vit(student.encoder.model, 2 * batch, trained=trained)
        total += mlp(student.projector, 2 * batch, trained=trained)
    return total


def peak(device: torch.device, precision: str, given_tflops: float | None, now: Clock = time.perf_counter) -> float:
    """Peak operations per second of the device: given, from the table, or measured by matrix products on a CPU.

    ValueError for a GPU that is not in the table, and for float32 on GPUs.
    """
    if given_tflops is not None:
        return given_tflops * 1e12
    if device.type == "cpu":
        return matmul_rate(torch.bfloat16 if precision == "bf16" else torch.float32, now)
    return gpu_peak(torch.cuda.get_device_name(device), precision)


def gpu_peak(name: str, precision: str) -> float:
    """See `peak`."""
    for part, rate in GPU_PEAKS.items():
        if part in name and precision == "bf16":
            return rate
    raise ValueError(
        f"No peak is known for {name!r} in {precision}, expected bf16 and one of {list(GPU_PEAKS)}. Set --peak-tflops "
        "to the device's dense rate."
    )


def matmul_rate(dtype: torch.dtype, now: Clock = time.perf_counter, repeats: int = 8) -> float:
    """Operations per second of the fastest of several large matrix products, with torch's current threads."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        started = now()
        a @ b
        seconds.append(now() - started)
    return 2 * SIDE**3 / min(seconds)
