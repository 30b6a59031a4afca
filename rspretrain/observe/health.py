"""Is the representation collapsing? Three measures of a batch of features, cheap enough for every step.

All take [B D] features of any float type and return a detached float32 scalar on the same device, NaN where a feature
is not finite (a bad step must reach the vote on its loss, not die in a logarithm). Lengths are removed first except in
`effective_rank`, which centres instead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_std(features: Tensor) -> Tensor:
    """Mean over dimensions of the std over the batch, of L2-normalised features, times sqrt(D).

    1 where directions are isotropic, 0 where all samples point the same way (Chen & He 2021, section 4.1).
    """
    x = F.normalize(features.detach().float(), dim=1)
    std: Tensor = x.std(dim=0, correction=0).mean() * x.shape[1] ** 0.5
    return std


def mean_cosine(features: Tensor) -> Tensor:
    """The mean cosine between two different samples: 1 is collapse. 0 by definition for a single sample."""
    x = F.normalize(features.detach().float(), dim=1)
    num_pairs = len(x) * (len(x) - 1)
    # |sum of unit vectors|^2 holds every ordered pair once and every sample with itself: no [B B] matrix needed.
    return (x.sum(dim=0).square().sum() - x.square().sum()) / max(num_pairs, 1)


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values of the centred features: 1 to min(B - 1, D), 0 if all equal.

    Roy & Vetterli 2007, eq. 2 and 4. By the eigenvalues of the smaller Gram matrix in float64: 2.7 ms at [256 512] on
    two cores, `svdvals` in float32 6.4 ms; squaring costs half of 16 digits, so the result is no less exact.
    """
    x = features.detach().double()
    finite = x.isfinite().all()
    x = torch.nan_to_num(x, 0.0, 0.0, 0.0)  # eigvalsh raises on NaN
    centred = x - x.mean(dim=0)
    gram = centred @ centred.T if x.shape[0] <= x.shape[1] else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt()
    # Rounding of equal float32 features is not a spread: what is below it counts as zero.
    values = torch.where(values > 1e-6 * torch.linalg.matrix_norm(x), values, 0.0)
    share = values / values.sum().clamp(min=torch.finfo(torch.float64).tiny)
    rank = torch.exp(-torch.xlogy(share, share).sum()) * (values.sum() > 0)
    return torch.where(finite, rank, torch.nan).float()
