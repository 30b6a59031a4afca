"""Labelled samples for training, validation and test: the section `labels` of a configuration.

With the same seed, a smaller label fraction is a subset of a larger one, and all fractions share the validation
samples. So the points of an ablation differ only in the number of labels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rspretrain.arrays import Rows
from rspretrain.evaluation.splits import ProbeData, choose_data
from rspretrain.rng import permutation
from rspretrain.settings import Settings
from rspretrain.shardset.filter import matching_rows
from rspretrain.shardset.index import ShardSet

_FRACTION, _VALIDATION = 0x66726163, 0x76616C69  # separate the two permutations that share a seed


class LabelSettings(Settings):
    """Label set, splits and label fraction."""

    nomenclature: str | None = Field(
        default=None,
        description="Set of labels of the archive, such as 19 or 43 for BigEarthNet. null: single-label sets "
        "before multi-label sets, then the set with the fewest classes.",
    )
    from_map: str | None = Field(
        default=None,
        description="Name of a label map (dfc, igbp); the classes inside a view are its labels. null: labels "
        "of whole patches.",
    )
    train_split: str | None = Field(
        default=None, description="Training split. null: train, or holdout:train where the archive has no splits."
    )
    test_split: str | None = Field(
        default=None, description="Test split. null: test (or val), or holdout:test where the archive has no splits."
    )
    fraction: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Share of the training images whose labels are used."
    )
    per_class: bool = Field(
        default=False, description="Apply fraction to each class separately, with at least one image of each."
    )
    balanced: bool = Field(default=False, description="Repeat images of rare classes within an epoch.")
    val_share: float = Field(
        default=0.2,
        ge=0.0,
        lt=1.0,
        description="Share of the training images that is set apart for validation where the archive has no "
        "val split. 0: no validation.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Seed of the choice of training images; another seed draws another subset of the same fraction.",
    )


@dataclass(frozen=True)
class FinetuneData:
    """Rows of a shard set for training, validation and test (ascending, disjoint), and their label set."""

    nomenclature: str
    classes: tuple[str, ...]
    multi: bool
    train: Rows
    val: Rows  # may be empty
    test: Rows
    epoch_rows: Rows  # the training rows of one epoch: `train`, with repetitions if classes are balanced
    hot: NDArray[np.bool_] | None = None  # multi-hot [rows of the shard set, K]; None: the shard set's own labels

    def targets(self, shards: ShardSet) -> NDArray[np.bool_]:
        """Multi-hot [rows of the shard set, K]."""
        return shards.labels(self.nomenclature) if self.hot is None else self.hot


def choose_labels(shards: ShardSet, settings: LabelSettings, filter: str | None = None) -> FinetuneData:
    """Choose the samples among those that `filter` keeps. ValueError as in `choose_data`, or if no sample is left."""
    labelled_only = settings.from_map is None  # with a map, a window may have a label where the whole patch has none
    data = choose_data(shards, settings.nomenclature, settings.train_split, settings.test_split, labelled_only)
    kept = np.ones(len(shards), dtype=np.bool_) if filter is None else matching_rows(shards, filter)
    train, test = (_not_empty(rows[kept[rows]], filter) for rows in (data.train, data.test))
    if data.val is not None:
        val = data.val[kept[data.val]]
    else:
        shuffled = train[permutation(len(train), settings.seed, _VALIDATION)]
        num_val = round(settings.val_share * len(train))
        val, train = shuffled[:num_val], shuffled[num_val:]
    hot = shards.labels(data.nomenclature)
    chosen = np.sort(_fraction(train, hot, data, settings))
    epoch_rows = oversample(chosen, hot) if settings.balanced else chosen
    return FinetuneData(data.nomenclature, data.classes, data.multi, chosen, np.sort(val), np.sort(test), epoch_rows)


def _not_empty(rows: Rows, filter: str | None) -> Rows:
    if not len(rows):
        raise ValueError(
            f"data.filter: {filter!r} keeps no labelled sample of the training or the test split, expected some of "
            "both. Correct the expression, or choose other splits with labels.train_split and labels.test_split."
        )
    return rows


def _fraction(train: Rows, hot: NDArray[np.bool_], data: ProbeData, settings: LabelSettings) -> Rows:
    """The first rows of a permutation that all fractions share. `train` is in key order, whatever the build."""
    shuffled = train[permutation(len(train), settings.seed, _FRACTION)]
    if not settings.per_class:
        return shuffled[: math.ceil(settings.fraction * len(train))]
    if data.multi:
        raise ValueError(
            f"labels.per_class: got true for {data.nomenclature!r}, which has several labels per image, expected one. "
            "Remove labels.per_class, or set labels.nomenclature to a label set with one label per image."
        )
    class_of = np.where(hot[shuffled].any(axis=1), hot[shuffled].argmax(axis=1), -1)
    parts = []
    for number in np.unique(class_of):
        mine = shuffled[class_of == number]
        parts.append(mine[: max(1, round(settings.fraction * len(mine)))])
    return np.concatenate(parts)


def oversample(rows: Rows, hot: NDArray[np.bool_]) -> Rows:
    """Repeat rows of rare classes, ascending. `hot`: multi-hot labels [rows of the shard set, K]."""
    return np.sort(np.repeat(rows, oversampling_counts(hot[rows])))


def oversampling_counts(hot: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N] repetitions of each sample per epoch that make classes about equally frequent, from labels [N K].

    The count is the frequency of the most frequent class divided by that of the sample's rarest class, rounded, as in
    DFC2020's class-balanced list. Unlike a random sampler, repetition keeps epochs exact.
    """
    counts = hot.sum(axis=0)
    rarest = np.where(hot, counts, counts.max(initial=1)).min(axis=1)
    times: NDArray[np.int64] = np.rint(counts.max(initial=1) / np.maximum(rarest, 1)).astype(np.int64)
    return times.clip(min=1)
