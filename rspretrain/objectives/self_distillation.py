"""Self-distillation as in DINO, iBOT and GSC-MIM: centering and sharpening of teacher outputs, cross-entropy.

Caron et al. 2021, Zhou et al. 2022; docs/methods.md, Centering and temperatures. Sharpening alone collapses to one
prototype for all images, centering alone to uniform targets. Together they prevent both without negatives.
"""

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rspretrain.observe.health import center_entropy, target_entropy, target_information
from rspretrain.world import sum_over_ranks


@final
class Center(nn.Module):
    """Running mean [K] of a teacher's outputs over the samples of all ranks; a buffer, saved in checkpoints."""

    value: Tensor

    def __init__(self, outputs: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(outputs))

    @torch.no_grad()
    def update_(self, mean: Tensor) -> None:
        """center <- momentum * center + (1 - momentum) * mean; mean [K] is over all ranks."""
        self.value.lerp_(mean.to(self.value.dtype), 1.0 - self.momentum)


@torch.no_grad()
def global_means(groups: Sequence[Tensor]) -> Tensor:
    """[G D]: mean row of each of G tensors [n D] over all ranks; n may differ between ranks. One collective."""
    sums = torch.stack([group.detach().sum(dim=0) for group in groups])
    counts = sums.new_tensor([[len(group)] for group in groups])
    total = sum_over_ranks(torch.cat([sums, counts], dim=1))
    return total[:, :-1] / total[:, -1:]


@torch.no_grad()
def teacher_probabilities(outputs: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Targets softmax((outputs - center) / temperature) of teacher outputs [… K], float32 or better."""
    with torch.autocast(outputs.device.type, enabled=False):
        return ((outputs.to(_precise(outputs)) - center) / temperature).softmax(dim=-1)


def cross_entropy(targets: Tensor, outputs: Tensor, temperature: float) -> Tensor:
    """[n]: - sum_j p_j log softmax_j(outputs / temperature) of targets p and student outputs, [n K] each."""
    with torch.autocast(outputs.device.type, enabled=False):
        return F.cross_entropy(outputs.to(_precise(outputs)) / temperature, targets, reduction="none")


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)  # float64 stays, for tests


def warmup_temperature(epoch: float, epochs: int, start: float, end: float) -> float:
    """Teacher temperature, constant within an epoch: `start` in the first, linearly to `end` in epoch `epochs`.

    iBOT's linspace(start, end, epochs), then `end`; constant `end` if `epochs` is 0.
    """
    if epoch >= epochs:
        return end
    return start + (end - start) * int(epoch) / max(epochs - 1, 1)


# Metrics of `teacher_health`; lower is worse.
TEACHER_HEALTH = ("health/center_entropy", "health/target_entropy", "health/target_information")


def teacher_health(targets: Tensor, center: Center, temperature: float) -> dict[str, Tensor]:
    """Balance of the center and of the targets [n K], and information of targets about samples (observe/health.py)."""
    measures = center_entropy(center.value, temperature), target_entropy(targets), target_information(targets)
    return dict(zip(TEACHER_HEALTH, measures, strict=True))
