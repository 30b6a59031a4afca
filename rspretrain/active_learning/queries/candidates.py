"""The input of query functions: features and probabilities of the unlabelled images under the current model."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain.arrays import Rows
from rspretrain.evaluation.gather import gather_samples

Positions = NDArray[np.int64]  # indices into the candidates, which are sorted by row


@dataclass(frozen=True)
class Candidates:
    """Unlabelled images, sorted by row, in eval mode without augmentation (docs/methods.md, Label-budget loop)."""

    rows: Rows  # [N]
    features: Tensor  # [N D] float32: the input of the classifier's last layer, not normalised
    probabilities: Tensor  # [N K] float32
    labelled: Tensor  # [M D] float32: features of the labelled images, sorted by row
    multi: bool = True  # multi-label (sigmoids) or single-label (softmax)

    def __len__(self) -> int:
        return len(self.rows)

    def residuals(self) -> Tensor:
        """[N K] float32: p - yhat, the gradient of the loss at the logits if the predictions were correct.

        yhat: all classes with p >= 0.5 (multi-label), or the most probable class, the first of equals (single-label).
        """
        p = self.probabilities
        if self.multi:
            return p - (p >= 0.5).float()
        predicted = np.asarray(p).argmax(axis=1)  # torch's argmax does not guarantee the first of equals
        return p - torch.nn.functional.one_hot(torch.from_numpy(predicted), p.shape[1])


def gather_candidates(
    rows: Rows, features: Tensor, probabilities: Tensor, labelled: NDArray[np.bool_], *, multi: bool = True
) -> Candidates:
    """Candidates from each rank's part of the pool: rows [n], features [n D], probabilities [n K], labelled [n] bool.

    The result does not depend on the assignment of images to ranks. ValueError for duplicate rows and non-finite
    values.
    """
    every, (x, p, known) = gather_samples(rows, features.float(), probabilities.float(), torch.from_numpy(labelled))
    return candidates_of(every, x.cpu(), p.cpu(), known.cpu().numpy(), multi=multi)


def candidates_of(
    rows: Rows, features: Tensor, probabilities: Tensor, labelled: NDArray[np.bool_], *, multi: bool = True
) -> Candidates:
    """As `gather_candidates`, from the values of the whole pool, sorted by row. ValueError for non-finite values."""
    x, p, known = features.float(), probabilities.float(), torch.from_numpy(labelled)
    bad = int((~(x.isfinite().all(dim=1) & p.isfinite().all(dim=1))).sum())
    if bad:
        raise ValueError(
            f"A query got NaN or infinite features or probabilities for {bad} of {len(rows)} images; expected finite "
            "values. Fine-tuning has diverged: lower optim.lr and repeat this round."
        )
    return Candidates(rows[~labelled], x[~known], p[~known], x[known], multi)


def largest_first(values: Tensor) -> Positions:
    """Positions by descending value [N]; equal values in the order of rows."""
    return np.argsort(-values.numpy(), kind="stable")
