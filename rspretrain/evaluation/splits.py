"""Which samples of a shard set a probe trains, chooses and tests on.

Samples without a label of the nomenclature are left out. The archive's own splits where it has some; else every fifth
sample is held out (ShardSet.split_rows, "holdout:"), which is the usual UC-Merced protocol. Always in key order,
so that nothing depends on how a build shuffled.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspretrain.shardset import index
from rspretrain.shardset.index import ShardSet

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ProbeData:
    """Rows of a shard set in the order of their keys, and what they are labelled with."""

    nomenclature: str
    classes: tuple[str, ...]
    multi: bool
    train_split: str
    test_split: str
    train: Rows
    val: Rows | None  # None: the probe holds out a part of `train` for a while
    test: Rows
    num_unlabelled: int  # in the whole shard set


def choose_data(
    shards: ShardSet,
    nomenclature: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    labelled_only: bool = True,
) -> ProbeData:
    """Pick the samples. ValueError for an unknown nomenclature or split, and for a split without a labelled sample."""
    name = nomenclature or default_nomenclature(shards)
    labelled: NDArray[np.bool_] = np.asarray(shards.labels(name).any(axis=1) | (not labelled_only))
    splits = shards.manifest.splits
    train_split = train_split or ("train" if splits else "holdout:train")
    test_split = test_split or ("holdout:test" if not splits else "test" if "test" in splits else "val")
    if train_split == test_split:
        raise ValueError(
            f"The probe got split {train_split!r} both for training and for testing. Give two different ones with "
            f"--train-split and --test-split; the archive's own are {splits or 'none'}."
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
    """One label a sample before several, then the fewest classes: UC-Merced's 21 classes, BigEarthNet's 19."""
    known = shards.nomenclatures
    if not known:
        raise ValueError(f"{shards.path} has no labels, and a probe needs some. Probe on a labelled shard set.")
    return min(known, key=lambda name: (known[name].multi, len(known[name].names)))


def every_fifth(targets: Tensor, multi: bool) -> Tensor:
    """[N] bool: every fifth of the samples as they come, of every class by itself where a sample has one label.

    targets: multi-hot bool [N K].
    """
    class_of = torch.zeros(len(targets), dtype=torch.long) if multi else targets.long().argmax(dim=1)
    return torch.from_numpy(index.every_fifth(class_of.numpy()))


def _labelled_rows(shards: ShardSet, labelled: NDArray[np.bool_], split: str) -> Rows:
    rows = shards.split_rows(split)
    rows = rows[labelled[rows]]
    if not len(rows):
        raise ValueError(
            f"Split {split!r} of {shards.path} has no labelled sample; its own splits are "
            f"{shards.manifest.splits or 'none'}, of {len(shards)} samples, {int(labelled.sum())} of them labelled. "
            "Choose others with --train-split and --test-split."
        )
    by_key: Rows = rows[np.argsort(np.array(shards.keys(rows)), kind="stable")]
    return by_key
