"""Logistic regression on fixed features: one-vs-rest for multi-label data, multinomial for single-label data.

The optimum is that of scikit-learn's `LogisticRegression(C=c)` (penalty 1/2 |w|^2, none on the bias, c times the summed
loss), found for all classes by one L-BFGS. Features of one network are strongly correlated, which makes plain L-BFGS
slow. So it runs in their principal axes, each scaled by the curvature of the logistic loss: same optimum, fewer steps.
2,000 x 512 features, 19 classes, the probe's five values of C: 3.8 s on one busy core. scikit-learn at similar
precision takes 38 s for three of the classes on two cores.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ITERATIONS = 500  # typical: 20 to 100; large C on separable classes reaches the limit, which is harmless
SINGLE_THREAD_MAX = 100_000_000  # N x D x K multiplications, which one thread does in tens of milliseconds
TOLERANCE = 1e-6  # largest entry of the gradient, per class, of the mean loss in scaled axes


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier. Weights are for standardised features: (x - mean) / std."""

    weight: Tensor  # [D K] float64
    bias: Tensor  # [K] float64
    mean: Tensor  # [D] float64
    std: Tensor  # [D] float64, 1 for a constant feature
    multi: bool

    def probabilities(self, features: Tensor) -> Tensor:
        """Features [N D] -> float32 [N K]: a sigmoid per class (multi-label) or a softmax (single-label)."""
        scores = ((features.double() - self.mean) / self.std) @ self.weight + self.bias
        return (scores.sigmoid() if self.multi else scores.softmax(dim=1)).float()


class LogisticPath:
    """A training set, prepared once, on which models with several values of C are fitted."""

    def __init__(self, features: Tensor, targets: Tensor, num_classes: int) -> None:
        """features [N D]; targets bool [N K] (multi-label) or int64 [N] in 0..K-1 (single-label)."""
        _check(features, targets)
        x = features.double()
        self.multi = targets.ndim == 2
        self.targets = targets.double() if self.multi else targets.long()
        self.num_classes = num_classes
        self.mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
        self.std = torch.where(std > 1e-12 * self.mean.abs().clamp(min=1e-12), std, 1.0)
        x = (x - self.mean) / self.std
        variances, self._axes = torch.linalg.eigh(x.T @ x / len(x))  # [D], [D D]
        self._variances = variances.clamp(min=0.0)
        self._rotated = x @ self._axes

    def fit(self, c: float) -> Logistic:
        """The optimum for C = c (larger: weaker penalty). It starts from zero, so it depends on data and c only."""
        penalty = 1.0 / (c * len(self._rotated))
        # Curvature of the mean loss along an axis is at most variance / 4.
        scale = (self._variances / 4 + penalty).rsqrt()[:, None]  # [D 1]
        x = self._rotated * scale.T
        weight = torch.zeros(x.shape[1], self.num_classes, dtype=x.dtype, device=x.device, requires_grad=True)
        bias = torch.zeros(self.num_classes, dtype=x.dtype, device=x.device, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=MAX_ITERATIONS,
            tolerance_grad=TOLERANCE,
            tolerance_change=1e-12,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            optimizer.zero_grad()
            loss = self._loss(x @ weight + bias) + 0.5 * penalty * (weight * scale).square().sum()
            loss.backward()
            return float(loss.detach())

        with _threads_for(x.numel() * self.num_classes):
            optimizer.step(closure)
        return Logistic(self._axes @ (weight.detach() * scale), bias.detach(), self.mean, self.std, self.multi)

    def _loss(self, scores: Tensor) -> Tensor:
        """Mean over samples; for multi-label data, the sum over the classes, whose problems are independent."""
        if self.multi:
            return F.binary_cross_entropy_with_logits(scores, self.targets) * self.num_classes
        return F.cross_entropy(scores, self.targets)


@contextmanager
def _threads_for(multiplications: int) -> Iterator[None]:
    """Use one thread for small problems: on shared cores, threads that wait for each other take 10 times longer
    (1,680 x 512 x 21, two busy cores: 135 s with two threads, 18 s with one).
    """
    before = torch.get_num_threads()
    if multiplications < SINGLE_THREAD_MAX:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(features: Tensor, targets: Tensor) -> None:
    if features.ndim != 2 or len(features) != len(targets) or not len(features):
        raise ValueError(
            f"Linear probe got features of shape {tuple(features.shape)} for {len(targets)} samples; expected [N D] "
            "with one row per sample and N >= 1. Compute the features of exactly these samples."
        )
    bad = int((~features.isfinite()).any(dim=1).sum())
    if bad:
        raise ValueError(
            f"Linear probe got NaN or infinite features for {bad} of {len(features)} samples; expected finite ones. "
            "Check the run's health/ metrics, or probe an earlier checkpoint."
        )
