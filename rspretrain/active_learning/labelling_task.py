"""A labelling campaign: which classes there are, whose labels are known, and what each round of a loop learns from.

The labels of pool images come from the oracle alone: a round's table has nothing of an image that nobody was asked for.
Held-out images are scored by the shard set's labels; those that have none are asked for, once, before the first round.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rspretrain.active_learning.budget import BudgetSettings, Keys, Split, given_split, random_split
from rspretrain.active_learning.imbalance import Labels
from rspretrain.active_learning.oracle import CsvOracle, Oracle, OracleSettings, TableOracle
from rspretrain.active_learning.pool import LabelPool, rows_of
from rspretrain.archives.base import Nomenclature
from rspretrain.evaluation.labels import FinetuneData, LabelSettings, oversample
from rspretrain.evaluation.splits import default_nomenclature
from rspretrain.shardset.index import ShardSet

OWN = "oracle.classes"  # the name of a nomenclature that comes from the settings


@dataclass(frozen=True)
class LabellingTask:
    """A shard set, the classes to tell apart, and what the set itself says of them. Made by `open_labelling_task`."""

    shards: ShardSet
    nomenclature: str
    classes: Nomenclature
    known: NDArray[np.bool_]  # [rows K]

    def start(
        self, labels: LabelSettings, budget: BudgetSettings, oracle: OracleSettings, filter: str | None
    ) -> LabelPool:
        """The pool before its first labels. ValueError where images or classes do not suffice."""
        rows = self.shards.select(None, filter)
        if oracle.name == "table":
            rows = rows[self.known[rows].any(axis=1)]
        if not len(rows):
            raise ValueError(
                f"The pool of {self.shards.path} got no image with labels of {self.nomenclature!r} that data.filter "
                f"({filter!r}) keeps; expected some. Correct the filter, set labels.nomenclature to one of "
                f"{sorted(self.shards.nomenclatures)}, or let people label (oracle=csv)."
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
        return given_split(of_split[train], of_split["val"] if has_val else None, of_split[test], budget)

    def _labels(self, keys: Keys) -> Labels:
        """key -> classes, of the images that have some."""
        hot = self.known[rows_of(self.shards, keys)]
        names = self.classes.names
        return {
            key: tuple(names[place] for place in each.nonzero()[0])
            for key, each in zip(keys, hot, strict=True)
            if each.any()
        }

    def unknown(self, pool: LabelPool) -> Keys:
        """Held-out images without a label."""
        held_out = tuple(sorted((*pool.split.val, *pool.split.test)))
        told = self._labels(held_out)
        return tuple(key for key in held_out if key not in told)

    def absent(self, pool: LabelPool) -> Keys:
        """Classes that no image of the pool has, as far as its labels are known; () where none is known."""
        seen = set(chain.from_iterable(self._labels(pool.split.pool).values()))
        return tuple(name for name in self.classes.names if name not in seen) if seen else ()

    def data(self, pool: LabelPool, held_out: Labels, *, balanced: bool, pending: bool = False) -> FinetuneData:
        """What a round learns from. `held_out`: answers for `unknown`; `pending`: with unanswered images, as ()."""
        hot = np.zeros_like(self.known)
        for key, names in self._answers(pool, held_out):
            hot[self.shards.row_of_key[key], [self.classes.names.index(name) for name in names]] = True
        val, test = (np.sort(rows_of(self.shards, keys)) for keys in (pool.split.val, pool.split.test))
        told = np.concatenate([val, test])
        hot[told] |= self.known[told]
        keys = (*pool.labels, *(pool.pending if pending else ()))
        train = np.sort(rows_of(self.shards, keys))
        epoch_rows = oversample(train, hot) if balanced else train
        names, multi = self.classes.names, self.classes.multi
        return FinetuneData(self.nomenclature, names, multi, train, val, test, epoch_rows, hot)

    def _answers(self, pool: LabelPool, held_out: Labels) -> Iterator[tuple[str, Keys]]:
        yield from pool.labels.items()
        yield from ((key, tuple(names)) for key, names in held_out.items())

    def oracle(self, settings: OracleSettings, folder: Path) -> Oracle:
        """Who answers; people do in `folder`. ValueError for class names that a table cannot hold."""
        if settings.name == "table":
            return TableOracle(self.shards, self.nomenclature)
        return CsvOracle(folder, self.shards, self.classes)


def open_labelling_task(shards: ShardSet, labels: LabelSettings, oracle: OracleSettings) -> LabellingTask:
    """The classes, from the settings or the shard set. ValueError where there are none."""
    if oracle.classes and oracle.name == "table":
        raise ValueError(
            f"oracle.classes: got {list(oracle.classes)} for the oracle 'table', whose classes are the shard set's; "
            "expected none. Leave them out, or let people label (oracle.name=csv)."
        )
    if oracle.classes:
        own = Nomenclature(oracle.classes, oracle.multi)
        return LabellingTask(shards, OWN, own, np.zeros((len(shards), len(own.names)), dtype=np.bool_))
    if not shards.nomenclatures and labels.nomenclature is None:
        raise ValueError(
            f"{shards.path} has no labels and so no list of classes; expected one. Set oracle.name=csv and "
            "oracle.classes=[NAME, NAME, …], and people will label what the loop asks for."
        )
    name = labels.nomenclature or default_nomenclature(shards)
    known = shards.labels(name)  # ValueError for a nomenclature that the set does not have
    return LabellingTask(shards, name, shards.nomenclatures[name], known)
