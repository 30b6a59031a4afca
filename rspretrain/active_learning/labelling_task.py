"""The labelling task of a loop: its classes, the labels known in advance, and the training data of each round.

Labels of pool images come from the oracle only, so a round never uses the labels of an image that was not requested.
Held-out images use the shard set's labels. Those without labels are requested once, before the first round.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rspretrain.active_learning.budget import BudgetSettings, Keys, Labels, Split, random_split, sample_splits
from rspretrain.active_learning.oracle import CsvOracle, Oracle, OracleSettings, TableOracle
from rspretrain.active_learning.pool import LabelPool, rows_of
from rspretrain.archives.base import Nomenclature
from rspretrain.evaluation.labels import FinetuneData, LabelSettings, oversample
from rspretrain.evaluation.splits import default_nomenclature
from rspretrain.shardset.index import ShardSet

OWN_CLASSES = "oracle.classes"  # name of a nomenclature defined in the settings


@dataclass(frozen=True)
class LabellingTask:
    """A shard set, the classes, and the labels known in advance. Made by `open_labelling_task`."""

    shards: ShardSet
    nomenclature: str
    classes: Nomenclature
    known: NDArray[np.bool_]  # [rows K]

    def start(
        self, labels: LabelSettings, budget: BudgetSettings, oracle: OracleSettings, filter: str | None
    ) -> LabelPool:
        """The initial pool. ValueError for too few images or classes."""
        rows = self.shards.select(None, filter)
        if oracle.name == "table":
            rows = rows[self.known[rows].any(axis=1)]
        if not len(rows):
            raise ValueError(
                f"{self.shards.path} has no image with labels of {self.nomenclature!r} that data.filter ({filter!r}) "
                "keeps; expected at least one. Correct the filter, set labels.nomenclature to one of "
                f"{sorted(self.shards.nomenclatures)}, or label by hand (oracle=csv)."
            )
        split = self._split(rows, labels, budget)
        return LabelPool.start(split, budget, self._labels(split.pool))

    def _split(self, rows: NDArray[np.int64], labels: LabelSettings, budget: BudgetSettings) -> Split:
        keys = self.shards.keys
        if labels.train_split is None and labels.test_split is None:
            return random_split(keys(rows), budget, set(keys(np.flatnonzero(self.known.any(axis=1)))))
        train, test = labels.train_split or "train", labels.test_split or "test"
        has_val = (train, test) == ("train", "test") and "val" in self.shards.manifest.splits
        of_split = {
            name: keys(np.intersect1d(self.shards.split_rows(name), rows))
            for name in (train, test, *(["val"] if has_val else []))
        }
        return sample_splits(of_split[train], of_split["val"] if has_val else None, of_split[test], budget)

    def _labels(self, keys: Keys) -> Labels:
        """key -> class names, for the images with labels."""
        hot = self.known[rows_of(self.shards, keys)]
        names = self.classes.names
        return {
            key: tuple(names[index] for index in each.nonzero()[0])
            for key, each in zip(keys, hot, strict=True)
            if each.any()
        }

    def unlabelled_held_out(self, pool: LabelPool) -> Keys:
        """Held-out images without a label."""
        held_out = tuple(sorted((*pool.split.val, *pool.split.test)))
        labelled = self._labels(held_out)
        return tuple(key for key in held_out if key not in labelled)

    def absent_classes(self, pool: LabelPool) -> Keys:
        """Classes without an image in the pool, judged by its known labels; () if no label is known."""
        seen = set(chain.from_iterable(self._labels(pool.split.pool).values()))
        return tuple(name for name in self.classes.names if name not in seen) if seen else ()

    def finetune_data(
        self, pool: LabelPool, held_out: Labels, *, balanced: bool, pending: bool = False
    ) -> FinetuneData:
        """The samples of a round.

        `held_out`: labels of the images in `unlabelled_held_out`; `pending`: include pending images, without labels.
        """
        hot = np.zeros_like(self.known)
        for key, names in self._answers(pool, held_out):
            hot[self.shards.row_of_key[key], [self.classes.names.index(name) for name in names]] = True
        val, test = (np.sort(rows_of(self.shards, keys)) for keys in (pool.split.val, pool.split.test))
        evaluated = np.concatenate([val, test])
        hot[evaluated] |= self.known[evaluated]
        keys = (*pool.labels, *(pool.pending if pending else ()))
        train = np.sort(rows_of(self.shards, keys))
        epoch_rows = oversample(train, hot) if balanced else train
        names, multi = self.classes.names, self.classes.multi
        return FinetuneData(self.nomenclature, names, multi, train, val, test, epoch_rows, hot)

    def _answers(self, pool: LabelPool, held_out: Labels) -> Iterator[tuple[str, Keys]]:
        yield from pool.labels.items()
        yield from ((key, tuple(names)) for key, names in held_out.items())

    def oracle(self, settings: OracleSettings, folder: Path) -> Oracle:
        """The oracle; the CSV oracle writes to `folder`. ValueError for class names that a CSV cell cannot hold."""
        if settings.name == "table":
            return TableOracle(self.shards, self.nomenclature)
        return CsvOracle(folder, self.shards, self.classes)


def open_labelling_task(shards: ShardSet, labels: LabelSettings, oracle: OracleSettings) -> LabellingTask:
    """The task with the classes of the settings or of the shard set. ValueError if neither has any."""
    if oracle.classes and oracle.name == "table":
        raise ValueError(
            f"oracle.classes: got {list(oracle.classes)} for the oracle 'table', which uses the shard set's classes; "
            "expected none. Remove oracle.classes, or label by hand (oracle.name=csv)."
        )
    if oracle.classes:
        own = Nomenclature(oracle.classes, oracle.multi)
        return LabellingTask(shards, OWN_CLASSES, own, np.zeros((len(shards), len(own.names)), dtype=np.bool_))
    if not shards.nomenclatures and labels.nomenclature is None:
        raise ValueError(
            f"{shards.path} has no labels and no classes, expected a list of classes. Set oracle.name=csv and "
            "oracle.classes=[NAME, NAME, …] to label the requested images by hand."
        )
    name = labels.nomenclature or default_nomenclature(shards)
    known = shards.labels(name)  # ValueError for an unknown nomenclature
    return LabellingTask(shards, name, shards.nomenclatures[name], known)
