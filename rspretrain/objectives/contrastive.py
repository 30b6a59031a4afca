"""NT-Xent loss over the samples of all ranks, and health metrics of paired views.

Chen et al. 2020, eq. 1, and Dual-SimCLR as released (docs/methods.md, NT-Xent). Equals lightly's NTXentLoss without
memory bank.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rspretrain.objectives.base import worst_values
from rspretrain.observe.health import alignment, effective_rank, feature_std, mean_cosine, uniformity
from rspretrain.world import gather_with_grad, rank, size

Negatives = Literal["all", "cross"]
VIEW_HEALTH = (
    "health/feature_std",
    "health/effective_rank",
    "health/mean_cosine",
    "health/uniformity",
    "health/positive_cosine",
    "health/alignment",  # 0 for identical views
)


def nt_xent(z1: Tensor, z2: Tensor, temperature: float, negatives: Negatives = "all") -> Tensor:
    """Mean loss over this rank's 2B rows, each compared with the 2BR columns of all R ranks, in float32 or better.

    z1, z2 [B D]: two views (or sensors) of the same samples, of any norm. `all`: one positive and 2BR - 2 negatives
    from both views, chance level log(2BR - 1). `cross`: only the BR columns of the other view (MMA, CLIP), chance level
    log(BR). The mean over ranks equals the loss of the whole batch, in value and gradient.
    """
    with torch.autocast(z1.device.type, enabled=False):
        dtype = torch.promote_types(z1.dtype, torch.float32)  # float64 stays, for tests
        local = torch.stack([F.normalize(z1.to(dtype)), F.normalize(z2.to(dtype))])  # [2 B D]
        gathered = gather_with_grad(local.transpose(0, 1)).transpose(0, 1)  # [2 BR D], one collective
        own = torch.arange(local.shape[1], device=z1.device) + rank() * local.shape[1]  # [B] columns of this rank
        if negatives == "cross":
            logits = local @ gathered.flip(0).transpose(1, 2) / temperature  # [2 B BR]
            return F.cross_entropy(logits.flatten(0, 1), own.repeat(2))
        count = gathered.shape[1]
        logits = local.flatten(0, 1) @ gathered.flatten(0, 1).T / temperature  # [2B 2BR]
        self_index, positive = torch.cat([own, own + count]), torch.cat([own + count, own])
        logits = logits.scatter(1, self_index[:, None], float("-inf"))
        return F.cross_entropy(logits, positive)


def chance_level(num_samples: int, negatives: Negatives = "all") -> float:
    """The loss of guessing in `nt_xent`; `num_samples` is the number of samples per rank, B."""
    count = num_samples * size()
    return math.log(2 * count - 1 if negatives == "all" else count)


def view_health(z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
    """Health metrics of this rank's rows [B D]: spread of the worse view, and similarity of positives."""
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
        return worst_values(spread) | {
            "health/positive_cosine": F.cosine_similarity(z1, z2).mean(),
            "health/alignment": alignment(z1, z2),
        }
