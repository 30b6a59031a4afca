"""How good scores are: average precision and F for several labels an image, accuracies for one (methods.md H.3).

All numbers are torchmetrics', which equal scikit-learn's with `zero_division=0`; scores stay float32 and are sorted
exactly, never binned. Under several ranks, `shares.gather_samples` brings the scores of all samples together first;
`bootstrap` says how sure a number is.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rspretrain.nn.torchvision_shim import ensure_torchvision

ensure_torchvision()  # torchmetrics imports torchvision too (design.md D14)
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_fbeta_score,
    binary_precision,
    binary_recall,
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_recall,
    multilabel_average_precision,
    multilabel_f1_score,
    multilabel_fbeta_score,
    multilabel_precision,
    multilabel_recall,
)


@dataclass(frozen=True)
class MultiLabelScores:
    """Averages over K classes (macro), over all N x K decisions (micro), and over N images (samples).

    `…_samples` are the example-based figures of the K-Branch paper (methods.md E.7): of every image by itself, 0 where
    0/0, then averaged. F2 weighs recall four times as much as precision.
    """

    ap_macro: float
    ap_micro: float
    f1_macro: float
    f1_micro: float
    f2_macro: float
    f2_micro: float
    precision_macro: float
    precision_micro: float
    recall_macro: float
    recall_micro: float
    precision_samples: float
    recall_samples: float
    f1_samples: float
    f2_samples: float
    ap_per_class: tuple[float, ...]
    f1_per_class: tuple[float, ...]
    support_per_class: tuple[int, ...]  # images that have the class
    num_without_positives: int  # classes that no sample has: each adds an AP and an F1 of 0 to the macro averages


@dataclass(frozen=True)
class SingleLabelScores:
    """Share of right answers over samples, and over classes."""

    top1: float  # overall accuracy
    average_accuracy: float  # mean recall of the classes that occur = scikit-learn's balanced_accuracy_score
    recall_per_class: tuple[float, ...]  # 0 for a class that does not occur
    support_per_class: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true class][answer], in samples
    num_without_samples: int


Scores = MultiLabelScores | SingleLabelScores


def figures(multi: bool) -> tuple[str, ...]:
    """The names of all figures that are one number."""
    kind = MultiLabelScores if multi else SingleLabelScores
    return tuple(field.name for field in fields(kind) if field.type is float)


def main_figure(multi: bool) -> str:
    """The figure that a choice is made by, unless somebody names another."""
    return "ap_macro" if multi else "top1"


def multi_label_scores(probabilities: Tensor, targets: Tensor) -> MultiLabelScores:
    """From probabilities [N K] in [0, 1] and targets [N K] bool; a class is given where its probability is over 0.5."""
    check_scores(probabilities, targets.shape)
    num_classes = probabilities.shape[1]
    labels = targets.long()

    def averaged(score: Callable[..., Tensor], average: str, **options: Any) -> float:
        return score(probabilities, labels, num_labels=num_classes, average=average, **options).item()

    def by_image(score: Callable[..., Tensor], **options: Any) -> float:
        return score(probabilities, labels, multidim_average="samplewise", **options).mean().item()

    with warnings.catch_warnings():  # told by num_without_positives
        warnings.filterwarnings("ignore", "No positive samples found in target", UserWarning)
        per_class = multilabel_average_precision(probabilities, labels, num_classes, average="none")
        micro = multilabel_average_precision(probabilities, labels, num_classes, average="micro")
    support = labels.sum(dim=0)
    per_class = torch.where(support > 0, per_class, 0.0)
    f1_per_class = multilabel_f1_score(probabilities, labels, num_classes, average="none")
    return MultiLabelScores(
        ap_macro=per_class.mean().item(),
        ap_micro=micro.item() if bool(support.any()) else 0.0,
        f1_macro=f1_per_class.mean().item(),
        f1_micro=averaged(multilabel_f1_score, "micro"),
        f2_macro=averaged(multilabel_fbeta_score, "macro", beta=2.0),
        f2_micro=averaged(multilabel_fbeta_score, "micro", beta=2.0),
        precision_macro=averaged(multilabel_precision, "macro"),
        precision_micro=averaged(multilabel_precision, "micro"),
        recall_macro=averaged(multilabel_recall, "macro"),
        recall_micro=averaged(multilabel_recall, "micro"),
        precision_samples=by_image(binary_precision),
        recall_samples=by_image(binary_recall),
        f1_samples=by_image(binary_f1_score),
        f2_samples=by_image(binary_fbeta_score, beta=2.0),
        ap_per_class=tuple(per_class.tolist()),
        f1_per_class=tuple(f1_per_class.tolist()),
        support_per_class=tuple(support.tolist()),
        num_without_positives=int((support == 0).sum()),
    )


def single_label_scores(probabilities: Tensor, targets: Tensor) -> SingleLabelScores:
    """From probabilities [N K] and the index of every sample's class [N]; the most probable class is the answer."""
    check_scores(probabilities, (len(targets), probabilities.shape[1]))
    num_classes = probabilities.shape[1]
    support = torch.bincount(targets, minlength=num_classes)
    recall = multiclass_recall(probabilities, targets, num_classes, average="none")
    confusion = multiclass_confusion_matrix(probabilities, targets, num_classes)
    return SingleLabelScores(
        top1=multiclass_accuracy(probabilities, targets, num_classes, average="micro").item(),
        average_accuracy=recall[support > 0].mean().item(),
        recall_per_class=tuple(recall.tolist()),
        support_per_class=tuple(support.tolist()),
        confusion=tuple(tuple(line) for line in confusion.tolist()),
        num_without_samples=int((support == 0).sum()),
    )


def check_scores(probabilities: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless they are probabilities of that shape; torchmetrics would silently put a sigmoid over others."""
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
