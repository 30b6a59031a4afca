"""Is the representation collapsing? Measures of a batch of features or of targets, cheap enough for every step.

All take [B D] features (or [N K] distributions) of any float type and return a detached float32 scalar on the same
device, NaN where a number is not finite (a bad step must reach the vote on its loss, not die in a logarithm). Lengths
of features are removed first except in `effective_rank`, which centres instead. What the numbers mean together is
judged in verdict.py.
"""

import math

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


def alignment(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean squared distance of the two views of a sample on the unit sphere: 0 to 4, 0 where views look the same.

    Wang & Isola 2020, eq. for alpha = 2. O(B D). It is 2 - 2 cos, but exact near 0, where a cosine of 1 has lost it.
    """
    z1, z2 = (F.normalize(z.detach().float(), dim=1) for z in (z1, z2))
    return (z1 - z2).square().sum(dim=1).mean()


def uniformity(features: Tensor) -> Tensor:
    """log of the mean of exp(-2 |x - y|^2) over pairs on the unit sphere: 0 is collapse, -4 uniform; NaN for B = 1.

    Wang & Isola 2020, t = 2. One [B B] product: 0.5 ms at [256 256] on a core.
    """
    x = F.normalize(features.detach().float(), dim=1)
    squared = (2.0 - 2.0 * (x @ x.T)).clamp(min=0.0).fill_diagonal_(torch.inf)  # nobody is a pair with itself
    num_pairs = len(x) * (len(x) - 1)
    return torch.log(torch.exp(-2.0 * squared).sum() / num_pairs) if num_pairs else x.sum() * torch.nan


def center_entropy(center: Tensor, temperature: float) -> Tensor:
    """Entropy of softmax(center / temperature), center [K], as a share of log K: 1 balanced, 0 one prototype for all.

    The center of DINO and iBOT is the running mean of the teacher's logits, so it says where targets would go without
    it. O(K).
    """
    logs = F.log_softmax(center.detach().float().flatten() / temperature, dim=0)
    return -(logs.exp() * logs).sum() / math.log(max(logs.numel(), 2))


def target_entropy(targets: Tensor) -> Tensor:
    """Entropy of the mean of N target distributions [N K], as a share of log K: 0 one prototype for all. O(N K).

    A batch of N sharp targets cannot exceed log N / log K.
    """
    mean = targets.detach().float().mean(dim=0)
    return -torch.xlogy(mean, mean).sum() / math.log(max(len(mean), 2))


def target_information(targets: Tensor) -> Tensor:
    """What a target says about its sample, in nats: the mean over N of KL(target | mean target), 0 to log min(N, K).

    targets [N K] are distributions. 0 is both collapses of self-distillation: all samples on one prototype (centering
    is missing) and all samples uniform (sharpening is missing). O(N K).
    """
    p = targets.detach().float()
    mean = p.mean(dim=0)
    return torch.xlogy(p, p).sum(dim=1).mean() - torch.xlogy(mean, mean).sum()
