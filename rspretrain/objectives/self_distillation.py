"""What DINO, iBOT and GSC-MIM share: a teacher's outputs, centred and sharpened, are the classes of its student.

Caron et al. 2021, Zhou et al. 2022; methods.md C.5. Sharpening alone ends in one answer for all images, centering alone
in all answers for each image; together they keep a network without negatives from either.
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
    """The running mean [K] of a teacher's outputs over the samples of all ranks; a buffer, so checkpoints have it."""

    value: Tensor

    def __init__(self, outputs: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(outputs))

    @torch.no_grad()
    def update_(self, mean: Tensor) -> None:
        """center <- momentum * center + (1 - momentum) * mean [K], the mean of all ranks."""
        self.value.lerp_(mean.to(self.value.dtype), 1.0 - self.momentum)


@torch.no_grad()
def means_over_ranks(groups: Sequence[Tensor]) -> Tensor:
    """[G D]: the mean row of every [n D] over all ranks, which may hold different numbers of rows; one collective."""
    sums = torch.stack([group.detach().sum(dim=0) for group in groups])
    counts = sums.new_tensor([[len(group)] for group in groups])
    total = sum_over_ranks(torch.cat([sums, counts], dim=1))
    return total[:, :-1] / total[:, -1:]


@torch.no_grad()
def soften(outputs: Tensor, center: Tensor, temperature: float) -> Tensor:
    """A teacher's outputs [… K] as probabilities softmax((outputs - center) / temperature), float32 or better."""
    with torch.autocast(outputs.device.type, enabled=False):
        return ((outputs.to(_precise(outputs)) - center) / temperature).softmax(dim=-1)


def cross_entropy(targets: Tensor, outputs: Tensor, temperature: float) -> Tensor:
    """[n]: - sum_j p_j log softmax_j(outputs / temperature) of targets p and a student's outputs [n K], as `soften`."""
    with torch.autocast(outputs.device.type, enabled=False):
        return F.cross_entropy(outputs.to(_precise(outputs)) / temperature, targets, reduction="none")


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)  # float64 stays, for tests


def warm_temperature(epoch: float, epochs: int, start: float, end: float) -> float:
    """The teacher's temperature by whole epochs: `start` in the first, linearly to `end` in epoch number `epochs`.

    iBOT's linspace(start, end, epochs), then `end`; constant `end` where `epochs` is 0.
    """
    if epoch >= epochs:
        return end
    return start + (end - start) * int(epoch) / max(epochs - 1, 1)


# What `teacher_health` gives; the lower, the worse.
TEACHER_HEALTH = ("health/center_entropy", "health/target_entropy", "health/target_information")


def teacher_health(targets: Tensor, center: Center, temperature: float) -> dict[str, Tensor]:
    """How balanced the center and the targets [n K] are, and what a target says of its sample (observe/health.py)."""
    measures = center_entropy(center.value, temperature), target_entropy(targets), target_information(targets)
    return dict(zip(TEACHER_HEALTH, measures, strict=True))
