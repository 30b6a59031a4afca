"""Training, validation and test samples of a probe.

Samples without a label of the nomenclature are excluded. The archive's own splits are used if it has some; otherwise
every fifth sample is held out (ShardSet.split_rows, "holdout:"), the usual UC-Merced protocol. Rows are in key order,
so that results do not depend on how a build shuffled.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain.arrays import Rows
from rspretrain.shardset import index
from rspretrain.shardset.index import ShardSet


@dataclass(frozen=True)
class ProbeData:
    """Rows of a shard set in key order, and their label set."""

    nomenclature: str
    classes: tuple[str, ...]
    multi: bool
    train_split: str
    test_split: str
    train: Rows
    val: Rows | None  # None: the probe holds out a part of `train` to choose C
    test: Rows
    num_unlabelled: int  # in the whole shard set


def choose_data(
    shards: ShardSet,
    nomenclature: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    labelled_only: bool = True,
) -> ProbeData:
    """Choose the samples. ValueError for an unknown nomenclature or split, or a split without a labelled sample."""
    name = nomenclature or default_nomenclature(shards)
    labelled: NDArray[np.bool_] = np.asarray(shards.labels(name).any(axis=1) | (not labelled_only))
    splits = shards.manifest.splits
    train_split = train_split or ("train" if splits else "holdout:train")
    test_split = test_split or ("holdout:test" if not splits else "test" if "test" in splits else "val")
    if train_split == test_split:
        raise ValueError(
            f"The probe got split {train_split!r} for both training and testing, expected two different splits. Set "
            f"--train-split and --test-split; the archive's own splits are {splits or 'none'}."
        )
    use_val = splits.get("val", 0) and (train_split, test_split) == ("train", "test")
    known = shards.nomenclatures[name]
    return ProbeData(
        name,
        known.names,
        known.multi,
        train_split,
        test_split,
        _labelled_rows(shards, labelled, train_split),
        _labelled_rows(shards, labelled, "val") if use_val else None,
        _labelled_rows(shards, labelled, test_split),
        int((~labelled).sum()),
    )


def default_nomenclature(shards: ShardSet) -> str:
    """Single-label before multi-label, then the fewest classes: UC-Merced's 21 classes, BigEarthNet's 19."""
    known = shards.nomenclatures
    if not known:
        raise ValueError(f"{shards.path} has no labels, expected at least one label set. Use a labelled shard set.")
    return min(known, key=lambda name: (known[name].multi, len(known[name].names)))


def holdout_mask(targets: Tensor, multi: bool) -> Tensor:
    """[N] bool: every fifth sample in order, counted per class if samples have one label. targets: multi-hot [N K]."""
    class_of = torch.zeros(len(targets), dtype=torch.long) if multi else targets.long().argmax(dim=1)
    return torch.from_numpy(index.holdout_mask(class_of.numpy()))


def _labelled_rows(shards: ShardSet, labelled: NDArray[np.bool_], split: str) -> Rows:
    rows = shards.split_rows(split)
    rows = rows[labelled[rows]]
    if not len(rows):
        raise ValueError(
            f"Split {split!r} of {shards.path} has no labelled sample, expected at least one; the archive's own splits "
            f"are {shards.manifest.splits or 'none'}, and {int(labelled.sum())} of {len(shards)} samples have labels. "
            "Choose other splits with --train-split and --test-split."
        )
    by_key: Rows = rows[np.argsort(np.array(shards.keys(rows)), kind="stable")]
    return by_key
