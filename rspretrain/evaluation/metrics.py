"""Classification metrics: average precision and F scores for multi-label data, accuracies for single-label data.

All values are computed by torchmetrics and equal scikit-learn's with `zero_division=0`. Scores stay float32 and are
sorted exactly, never binned. With several ranks, `gather.gather_samples` collects the scores of all samples first;
`bootstrap` gives confidence intervals.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rspretrain.nn.torchvision_shim import ensure_torchvision


@dataclass(frozen=True)
class MultiLabelScores:
    """Averages over K classes (macro), over all N x K decisions (micro), and over N images (samples).

    `…_samples` are the example-based metrics of the K-Branch paper: computed per image (0/0 counts as 0), then
    averaged. F2 weighs recall four times as much as precision.
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
    support_per_class: tuple[int, ...]  # number of images with the class
    num_without_positives: int  # classes without a sample: each counts 0 in the macro averages


@dataclass(frozen=True)
class SingleLabelScores:
    """Accuracy over samples, and averaged over classes."""

    top1: float  # overall accuracy
    average_accuracy: float  # mean recall over the classes that occur: scikit-learn's balanced_accuracy_score
    recall_per_class: tuple[float, ...]  # 0 for a class that does not occur
    support_per_class: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true class][predicted class], number of samples
    num_without_samples: int


Scores = MultiLabelScores | SingleLabelScores
METRIC_TITLES = {"ap_macro": "AP macro", "ap_micro": "AP micro", "f1_macro": "F1 macro", "f1_micro": "F1 micro",
                 "f2_macro": "F2 macro", "top1": "top-1", "average_accuracy": "mean recall"}  # fmt: skip


def metric_names(multi: bool) -> tuple[str, ...]:
    """Names of all scalar metrics."""
    kind = MultiLabelScores if multi else SingleLabelScores
    return tuple(field.name for field in fields(kind) if field.type is float)


def main_metric(multi: bool) -> str:
    """The default metric for model selection."""
    return "ap_macro" if multi else "top1"


def summary_metrics(scores: Scores) -> list[tuple[str, float]]:
    """(name, value) of the metrics shown in tables, most important first."""
    multi = isinstance(scores, MultiLabelScores)
    names = ("ap_macro", "ap_micro", "f1_macro", "f1_micro") if multi else ("top1", "average_accuracy")
    return [(name, getattr(scores, name)) for name in names]


def compute_scores(probabilities: Tensor, hot: Tensor, multi: bool) -> Scores:
    """Metrics of probabilities [N K] against multi-hot labels [N K] bool; `multi`: an image may have several labels."""
    if multi:
        return multi_label_scores(probabilities, hot)
    return single_label_scores(probabilities, hot.long().argmax(dim=1))


def multi_label_scores(probabilities: Tensor, targets: Tensor) -> MultiLabelScores:
    """Scores of probabilities [N K] in [0, 1] against targets [N K] bool, with a decision threshold of 0.5."""
    check_scores(probabilities, targets.shape)
    functional = _torchmetrics()
    num_classes = probabilities.shape[1]
    labels = targets.long()

    def averaged(score: Callable[..., Tensor], average: str, **options: Any) -> float:
        return score(probabilities, labels, num_labels=num_classes, average=average, **options).item()

    def by_image(score: Callable[..., Tensor], **options: Any) -> float:
        return score(probabilities, labels, multidim_average="samplewise", **options).mean().item()

    with warnings.catch_warnings():  # num_without_positives reports these classes
        warnings.filterwarnings("ignore", "No positive samples found in target", UserWarning)
        per_class = functional.multilabel_average_precision(probabilities, labels, num_classes, average="none")
        micro = functional.multilabel_average_precision(probabilities, labels, num_classes, average="micro")
    support = labels.sum(dim=0)
    per_class = torch.where(support > 0, per_class, 0.0)
    f1_per_class = functional.multilabel_f1_score(probabilities, labels, num_classes, average="none")
    return MultiLabelScores(
        ap_macro=per_class.mean().item(),
        ap_micro=micro.item() if bool(support.any()) else 0.0,
        f1_macro=f1_per_class.mean().item(),
        f1_micro=averaged(functional.multilabel_f1_score, "micro"),
        f2_macro=averaged(functional.multilabel_fbeta_score, "macro", beta=2.0),
        f2_micro=averaged(functional.multilabel_fbeta_score, "micro", beta=2.0),
        precision_macro=averaged(functional.multilabel_precision, "macro"),
        precision_micro=averaged(functional.multilabel_precision, "micro"),
        recall_macro=averaged(functional.multilabel_recall, "macro"),
        recall_micro=averaged(functional.multilabel_recall, "micro"),
        precision_samples=by_image(functional.binary_precision),
        recall_samples=by_image(functional.binary_recall),
        f1_samples=by_image(functional.binary_f1_score),
        f2_samples=by_image(functional.binary_fbeta_score, beta=2.0),
        ap_per_class=tuple(per_class.tolist()),
        f1_per_class=tuple(f1_per_class.tolist()),
        support_per_class=tuple(support.tolist()),
        num_without_positives=int((support == 0).sum()),
    )


def single_label_scores(probabilities: Tensor, targets: Tensor) -> SingleLabelScores:
    """Scores of probabilities [N K] against class indices [N]; the most probable class is the prediction."""
    check_scores(probabilities, (len(targets), probabilities.shape[1]))
    functional = _torchmetrics()
    num_classes = probabilities.shape[1]
    support = torch.bincount(targets, minlength=num_classes)
    recall = functional.multiclass_recall(probabilities, targets, num_classes, average="none")
    confusion = functional.multiclass_confusion_matrix(probabilities, targets, num_classes)
    return SingleLabelScores(
        top1=functional.multiclass_accuracy(probabilities, targets, num_classes, average="micro").item(),
        average_accuracy=recall[support > 0].mean().item(),
        recall_per_class=tuple(recall.tolist()),
        support_per_class=tuple(support.tolist()),
        confusion=tuple(tuple(line) for line in confusion.tolist()),
        num_without_samples=int((support == 0).sum()),
    )


def check_scores(probabilities: Tensor, shape: tuple[int, ...]) -> None:
    """ValueError unless these are probabilities of that shape; torchmetrics silently applies a sigmoid to others."""
    if tuple(probabilities.shape) != tuple(shape) or not len(probabilities):
        raise ValueError(
            f"Metrics got scores of shape {tuple(probabilities.shape)} for targets of {tuple(shape)}; expected one row "
            "of K scores for each of N >= 1 samples. Choose a split with samples, and score all of them."
        )
    low, high = probabilities.min().item(), probabilities.max().item()
    if not (low >= 0.0 and high <= 1.0):  # NaN fails too
        raise ValueError(
            f"Metrics got scores from {low:.4g} to {high:.4g}; expected probabilities in [0, 1]. Apply a sigmoid "
            "(multi-label) or a softmax (single-label) first, and check the features for NaN."
        )


def _torchmetrics() -> Any:
    """torchmetrics' functions, imported at first use: the import takes 3.6 s, and pretraining computes no metric."""
    ensure_torchvision()  # torchmetrics imports torchvision, too
    from torchmetrics.functional import classification

    return classification
