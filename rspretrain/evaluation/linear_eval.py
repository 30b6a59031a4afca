"""GSC-MIM's linear evaluation: a linear layer on frozen features, trained on 1 % of the images of each class.

The protocol is that of DINO's and iBOT's eval_linear.py. A training set may have only 21 images, so one batch holds all
of them and the learning rate is fixed at 0.1. Deviation, because features are computed once: whole images at the
network's input size, where eval_linear.py trains on random resized crops with flips and tests on the central 224 of 256
pixels.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspretrain.arrays import Rows
from rspretrain.evaluation.labels import FinetuneData, LabelSettings, choose_labels
from rspretrain.evaluation.metrics import SingleLabelScores, single_label_scores
from rspretrain.evaluation.probe import extract_features
from rspretrain.nn.tokens import TokenFeatures
from rspretrain.schedules import cosine
from rspretrain.shardset.index import ShardSet
from rspretrain.transforms.inputs import NetworkInput

EPOCHS, LR, MOMENTUM, INIT_STD = 100, 0.1, 0.9, 0.01  # one step per epoch


@dataclass(frozen=True)
class Draw:
    """One random training set, and the test scores of the linear layer trained on it."""

    seed: int
    keys: tuple[str, ...]  # of the training images, in the order of the shard set
    train_loss: float  # after the last step
    scores: SingleLabelScores


@dataclass(frozen=True)
class LinearEvaluation:
    """All draws of one backbone."""

    classes: tuple[str, ...]
    num_test: int
    draws: tuple[Draw, ...]

    @property
    def top1(self) -> tuple[float, float | None]:
        """Mean and standard deviation (n - 1) over the draws; the deviation of a single draw is None."""
        found = [draw.scores.top1 for draw in self.draws]
        return statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """All fields, for a JSON file."""
        mean, std = self.top1
        return {
            "top1_mean": mean,
            "top1_std": std,
            "classes": list(self.classes),
            "n_test": self.num_test,
            "draws": [asdict(draw) for draw in self.draws],
        }


def draw_training_sets(
    shards: ShardSet, fraction: float, seeds: Sequence[int], labels: Mapping[str, Any]
) -> dict[int, FinetuneData]:
    """Seed -> training set with max(1, round(fraction n_c)) of the n_c images of each class c; one test split for all.

    `labels`: nomenclature and splits, as in LabelSettings. ValueError for multi-label data.
    """
    return {
        seed: choose_labels(
            shards, LabelSettings(fraction=fraction, per_class=True, val_share=0.0, seed=seed, **labels)
        )
        for seed in seeds
    }


def evaluate(
    network: TokenFeatures,
    network_input: NetworkInput,
    shards: ShardSet,
    draws: Mapping[int, FinetuneData],
    batch_size: int = 128,
    device: torch.device | None = None,
) -> LinearEvaluation:
    """Evaluate one backbone on all draws. The features of each image are computed once."""
    data = next(iter(draws.values()))
    rows: Rows = np.unique(np.concatenate([data.test, *(draw.train for draw in draws.values())]))
    features = extract_features(network, network_input, shards, rows, batch_size, device)
    class_of = torch.from_numpy(data.targets(shards)[rows].argmax(axis=1))

    def part(some: Rows) -> tuple[Tensor, Tensor]:
        positions = torch.from_numpy(np.searchsorted(rows, some))
        return features[positions], class_of[positions]

    found = []
    for seed, draw in draws.items():
        linear, loss = fit(*part(draw.train), len(data.classes), seed)
        test, targets = part(data.test)
        with torch.no_grad():
            scores = single_label_scores(linear(test).softmax(dim=1), targets)
        found.append(Draw(seed, tuple(shards.keys(draw.train)), loss, scores))
    return LinearEvaluation(data.classes, len(data.test), tuple(found))


def fit(features: Tensor, targets: Tensor, num_classes: int, seed: int) -> tuple[nn.Linear, float]:
    """Train a linear layer on features [N D] and classes [N] by EPOCHS full-batch SGD steps; its final loss, too."""
    linear = nn.Linear(features.shape[1], num_classes)
    nn.init.normal_(linear.weight, std=INIT_STD, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(linear.parameters(), lr=LR, momentum=MOMENTUM)
    for epoch in range(EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = cosine(epoch, EPOCHS, LR, 0.0)
        optimizer.zero_grad()
        cross_entropy(linear(features), targets).backward()
        optimizer.step()
    with torch.no_grad():
        return linear, cross_entropy(linear(features), targets).item()
