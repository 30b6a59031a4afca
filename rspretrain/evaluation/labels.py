"""Which labelled samples a fine-tuning run trains on, is stopped by and is tested on: the section `labels`.

Smaller label fractions are parts of larger ones of the same seed, and the validation samples are the same for all of
them, so that the points of an ablation differ in nothing but the number of labels.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rspretrain.evaluation.splits import ProbeData, Rows, choose_data
from rspretrain.rng import permutation
from rspretrain.settings import Settings
from rspretrain.shardset.filter import matching_rows
from rspretrain.shardset.index import ShardSet

_FRACTION, _VALIDATION = 0x66726163, 0x76616C69  # of the permutations


class LabelSettings(Settings):
    """Which labels, and of how many images."""

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
    """Rows of a shard set, ascending, three disjoint sets; and what they are labelled with."""

    nomenclature: str
    classes: tuple[str, ...]
    multi: bool
    train: Rows
    val: Rows  # may be empty
    test: Rows
    draws: Rows  # `train`, rows repeated where classes are balanced: what an epoch goes through
    hot: NDArray[np.bool_] | None = None  # multi-hot [rows of the shard set, K] where labels are not the set's own

    def targets(self, shards: ShardSet) -> NDArray[np.bool_]:
        """Multi-hot [rows of the shard set, K]."""
        return shards.labels(self.nomenclature) if self.hot is None else self.hot


def choose_labels(shards: ShardSet, settings: LabelSettings, filter: str | None = None) -> FinetuneData:
    """Pick the samples, of those that `filter` keeps. ValueError as in `choose_data`, and for a share of nothing."""
    of_patches = settings.from_map is None  # a window may have a label where the whole patch has none
    data = choose_data(shards, settings.nomenclature, settings.train_split, settings.test_split, of_patches)
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
    draws = draws_of(chosen, hot, settings.balanced)
    return FinetuneData(data.nomenclature, data.classes, data.multi, chosen, np.sort(val), np.sort(test), draws)


def _not_empty(rows: Rows, filter: str | None) -> Rows:
    if not len(rows):
        raise ValueError(
            f"data.filter: {filter!r} keeps no labelled sample of the training or of the test split, expected some of "
            "both. Correct the expression, or choose other splits in labels.train_split and labels.test_split."
        )
    return rows


def _fraction(train: Rows, hot: NDArray[np.bool_], data: ProbeData, settings: LabelSettings) -> Rows:
    """The first of a permutation that is the same for every fraction; `train` in an order that no build changes."""
    shuffled = train[permutation(len(train), settings.seed, _FRACTION)]
    if not settings.per_class:
        return shuffled[: math.ceil(settings.fraction * len(train))]
    if data.multi:
        raise ValueError(
            f"labels.per_class: got true for {data.nomenclature!r}, which has several labels an image, expected one. "
            "Leave it out to choose by image, or set labels.nomenclature to one with a label an image."
        )
    class_of = np.where(hot[shuffled].any(axis=1), hot[shuffled].argmax(axis=1), -1)
    parts = []
    for number in np.unique(class_of):
        mine = shuffled[class_of == number]
        parts.append(mine[: max(1, round(settings.fraction * len(mine)))])
    return np.concatenate(parts)


def draws_of(rows: Rows, hot: NDArray[np.bool_], balanced: bool) -> Rows:
    """What an epoch of `rows`, ascending, goes through; where classes are `balanced` with repetitions."""
    return np.sort(np.repeat(rows, copies(hot[rows]))) if balanced else rows


def copies(hot: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[N] how often every sample comes in an epoch so that classes come about equally often, from labels [N K].

    The most frequent class's count over that of the rarest class that a sample has, rounded: DFC2020's class-balanced
    list (methods.md A.7), as repetitions in the order instead of a random sampler's, so that an epoch stays exact.
    """
    counts = hot.sum(axis=0)
    rarest = np.where(hot, counts, counts.max(initial=1)).min(axis=1)
    times: NDArray[np.int64] = np.rint(counts.max(initial=1) / np.maximum(rarest, 1)).astype(np.int64)
    return times.clip(min=1)
