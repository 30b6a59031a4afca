"""How good scores are: average precision and F1 for several labels an image, accuracies for one (methods.md H.3).

All numbers are torchmetrics', which equal scikit-learn's with `zero_division=0`; scores stay float32 and are sorted
exactly, never binned.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from rspretrain.nn.torchvision_shim import ensure_torchvision

ensure_torchvision()  # torchmetrics imports torchvision too (design.md D14)
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_recall,
    multilabel_average_precision,
    multilabel_f1_score,
)


@dataclass(frozen=True)
class MultiLabelScores:
    """Averages over K classes (macro) and over all N x K decisions (micro)."""

    ap_macro: float
    ap_micro: float
    f1_macro: float
    f1_micro: float
    ap_per_class: tuple[float, ...]
    num_without_positives: int  # classes that no sample has: each adds an AP and an F1 of 0 to the macro averages


@dataclass(frozen=True)
class SingleLabelScores:
    """Share of right answers over samples, and over classes."""

    top1: float
    average_accuracy: float  # mean recall of the classes that occur = scikit-learn's balanced_accuracy_score
    recall_per_class: tuple[float, ...]  # 0 for a class that does not occur
    num_without_samples: int


Scores = MultiLabelScores | SingleLabelScores


def multi_label_scores(probabilities: Tensor, targets: Tensor) -> MultiLabelScores:
    """From probabilities [N K] in [0, 1] and targets [N K] bool; a class is given where its probability is over 0.5."""
    _check(probabilities, targets.shape)
    num_classes = probabilities.shape[1]
    labels = targets.long()
    with warnings.catch_warnings():  # told by num_without_positives
        warnings.filterwarnings("ignore", "No positive samples found in target", UserWarning)
        per_class = multilabel_average_precision(probabilities, labels, num_classes, average="none")
        micro = multilabel_average_precision(probabilities, labels, num_classes, average="micro")
    occurs = targets.any(dim=0)
    per_class = torch.where(occurs, per_class, 0.0)
    return MultiLabelScores(
        ap_macro=per_class.mean().item(),
        ap_micro=micro.item() if bool(occurs.any()) else 0.0,
        f1_macro=multilabel_f1_score(probabilities, labels, num_classes, average="macro").item(),
        f1_micro=multilabel_f1_score(probabilities, labels, num_classes, average="micro").item(),
        ap_per_class=tuple(per_class.tolist()),
        num_without_positives=int((~occurs).sum()),
    )


def single_label_scores(probabilities: Tensor, targets: Tensor) -> SingleLabelScores:
    """From probabilities [N K] and the index of every sample's class [N]; the most probable class is the answer."""
    _check(probabilities, (len(targets), probabilities.shape[1]))
    num_classes = probabilities.shape[1]
    occurs = torch.bincount(targets, minlength=num_classes) > 0
    recall = multiclass_recall(probabilities, targets, num_classes, average="none")
    return SingleLabelScores(
        top1=multiclass_accuracy(probabilities, targets, num_classes, average="micro").item(),
        average_accuracy=recall[occurs].mean().item(),
        recall_per_class=tuple(recall.tolist()),
        num_without_samples=int((~occurs).sum()),
    )


def _check(probabilities: Tensor, shape: tuple[int, ...]) -> None:
    """torchmetrics would silently put a sigmoid over numbers outside [0, 1]."""
    if tuple(probabilities.shape) != tuple(shape) or not len(probabilities):
        raise ValueError(
            f"Metrics got scores of shape {tuple(probabilities.shape)} for targets of {tuple(shape)}; expected one row "
            "of K scores for each of N >= 1 samples."
        )
    low, high = probabilities.min().item(), probabilities.max().item()
    if not (low >= 0.0 and high <= 1.0):  # NaN fails too
        raise ValueError(
            f"Metrics got scores from {low:.4g} to {high:.4g}; expected probabilities in [0, 1]. Apply a sigmoid "
            "(several labels) or a softmax (one label) first, and look for NaN in the features."
        )
