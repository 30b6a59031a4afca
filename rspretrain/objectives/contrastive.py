"""NT-Xent: every sample picks out its other view among all samples of all ranks.

Chen et al. 2020, eq. 1, and Dual-SimCLR as released (methods.md A.4); equals lightly's NTXentLoss without memory bank.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rspretrain.observe.health import alignment, effective_rank, feature_std, mean_cosine, uniformity
from rspretrain.world import gather_with_grad, rank, size

Negatives = Literal["all", "cross"]
# What `view_health` gives, and which of two values is the worse one. Of other measures it is the lower one.
_WORSE = {
    "health/feature_std": torch.amin,
    "health/effective_rank": torch.amin,
    "health/mean_cosine": torch.amax,
    "health/uniformity": torch.amax,
    "health/positive_cosine": torch.amin,
    "health/alignment": torch.amin,  # 0 where views are identical
}
VIEW_HEALTH = tuple(_WORSE)


def nt_xent(z1: Tensor, z2: Tensor, temperature: float, negatives: Negatives = "all") -> Tensor:
    """The mean loss over this rank's 2B rows, each compared with the 2BR columns of all R ranks, in float32 or better.

    z1, z2 [B D] are two views (or sensors) of the same samples, of any length. `all`: one positive and 2BR - 2
    negatives of both views, chance level log(2BR - 1). `cross`: only the other view's BR columns (MMA, CLIP), chance
    level log(BR). The mean over ranks is the whole batch's loss, and its gradient the whole batch's gradient.
    """
    with torch.autocast(z1.device.type, enabled=False):
        dtype = torch.promote_types(z1.dtype, torch.float32)  # float64 stays, for tests
        local = torch.stack([F.normalize(z1.to(dtype)), F.normalize(z2.to(dtype))])  # [2 B D]
        everyone = gather_with_grad(local.transpose(0, 1)).transpose(0, 1)  # [2 BR D], one collective
        own = torch.arange(local.shape[1], device=z1.device) + rank() * local.shape[1]  # [B] columns of our rows
        if negatives == "cross":
            logits = local @ everyone.flip(0).transpose(1, 2) / temperature  # [2 B BR]
            return F.cross_entropy(logits.flatten(0, 1), own.repeat(2))
        count = everyone.shape[1]
        logits = local.flatten(0, 1) @ everyone.flatten(0, 1).T / temperature  # [2B 2BR]
        itself, other = torch.cat([own, own + count]), torch.cat([own + count, own])
        logits = logits.scatter(1, itself[:, None], float("-inf"))
        return F.cross_entropy(logits, other)


def chance_level(num_samples: int, negatives: Negatives = "all") -> float:
    """The loss of guessing in `nt_xent`, where `num_samples` is the B of each of this world's ranks."""
    count = num_samples * size()
    return math.log(2 * count - 1 if negatives == "all" else count)


def view_health(z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
    """What a person watches, of this rank's rows [B D]: spread of the worse view, and closeness of positives."""
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = z1.detach().float(), z2.detach().float()
        spread = [
            {
                "health/feature_std": feature_std(z),
                "health/effective_rank": effective_rank(z),
                "health/mean_cosine": mean_cosine(z),
                "health/uniformity": uniformity(z),
            }
            for z in (z1, z2)
        ]
        return worst(spread) | {
            "health/positive_cosine": F.cosine_similarity(z1, z2).mean(),
            "health/alignment": alignment(z1, z2),
        }


def worst(measures: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of several measurements with the same names, the worst of each; nothing of none."""
    names = measures[0] if measures else ()
    return {name: _WORSE.get(name, torch.amin)(torch.stack([each[name] for each in measures])) for name in names}
