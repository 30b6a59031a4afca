"""What a query function knows of the images that may be labelled next: how the present model sees them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain.arrays import Rows
from rspretrain.evaluation.gather import gather_samples

Places = NDArray[np.int64]  # positions among the candidates, which lie in the order of their rows


@dataclass(frozen=True)
class Candidates:
    """Images without labels, ascending by row; eval mode, no augmentation (methods.md F.2)."""

    rows: Rows  # [N]
    features: Tensor  # [N D] float32: what the classifier's last layer gets, not normalised
    probabilities: Tensor  # [N K] float32
    labelled: Tensor  # [M D] float32: features of the images that have labels already, ascending by row
    multi: bool = True  # several labels an image (sigmoids), or one (a softmax)

    def __len__(self) -> int:
        return len(self.rows)

    def residuals(self) -> Tensor:
        """[N K] float32: p - yhat, the loss gradient at the logits if the model were right (methods.md F.2).

        yhat is every class of p >= 0.5; the most probable one (the first of equals) where images have one label.
        """
        p = self.probabilities
        if self.multi:
            return p - (p >= 0.5).float()
        answers = np.asarray(p).argmax(axis=1)  # torch's argmax does not say which of equals it takes
        return p - torch.nn.functional.one_hot(torch.from_numpy(answers), p.shape[1])


def gather_candidates(
    rows: Rows, features: Tensor, probabilities: Tensor, labelled: NDArray[np.bool_], *, multi: bool = True
) -> Candidates:
    """From what each rank computed of its share of the pool: rows [n], [n D], [n K], and which have labels [n].

    The same candidates whichever rank had which image. ValueError where an image comes twice, or is not finite.
    """
    every, (x, p, known) = gather_samples(rows, features.float(), probabilities.float(), torch.from_numpy(labelled))
    return candidates_of(every, x.cpu(), p.cpu(), known.cpu().numpy(), multi=multi)


def candidates_of(
    rows: Rows, features: Tensor, probabilities: Tensor, labelled: NDArray[np.bool_], *, multi: bool = True
) -> Candidates:
    """As `gather_candidates`, from the whole pool's values, ascending by row. ValueError where one is not finite."""
    x, p, known = features.float(), probabilities.float(), torch.from_numpy(labelled)
    bad = int((~(x.isfinite().all(dim=1) & p.isfinite().all(dim=1))).sum())
    if bad:
        raise ValueError(
            f"A query got NaN or infinite features or probabilities for {bad} of {len(rows)} images; expected finite "
            "ones. Fine-tuning has diverged: lower its rate, and start this round again."
        )
    return Candidates(rows[~labelled], x[~known], p[~known], x[known], multi)


def largest_first(values: Tensor) -> Places:
    """Places by descending value [N]; equal values in the order of rows."""
    return np.argsort(-values.numpy(), kind="stable")
