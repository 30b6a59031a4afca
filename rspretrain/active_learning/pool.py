"""The state of a label-budget loop: labelled, pending, unlabelled and held-out images.

A pool is immutable. Each round makes two new pools: one with the queried images pending, one with their labels. A loop
saves both, so an interrupted loop continues with the same result (docs/methods.md, Label-budget loop). Images are
identified by keys, so a pool stays valid if its shard set is built again.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Self, final

import numpy as np
from pydantic import ValidationError, model_validator

from rspretrain.active_learning.budget import (
    BudgetSettings,
    Keys,
    Labels,
    Split,
    remove_minority_images,
    shuffled,
)
from rspretrain.arrays import Rows
from rspretrain.files import write_json
from rspretrain.rng import mix
from rspretrain.settings import Settings
from rspretrain.shardset.index import ShardSet

_FIRST, _QUERY = 0x66697273, 0x71756572  # separate the draws that share a seed


@final
class LabelPool(Settings):
    """The state of a loop. `start` makes the first state; `request` and `answer` return the next one."""

    settings: BudgetSettings
    split: Split  # its pool excludes the images in `removed`
    removed: dict[str, Keys]  # reduced class -> keys removed from the pool by the imbalance scenario
    missing: dict[str, int]  # reduced class -> number of images by which the class fell short of the scenario
    rounds: tuple[dict[str, Keys], ...] = ()  # key -> labels: one dict for the first images, one per query
    pending: Keys = ()  # requested images without labels so far

    @classmethod
    def start(cls, split: Split, settings: BudgetSettings, labels: Labels | None = None) -> Self:
        """The initial pool, with the first images pending. Scenarios 2 and 3 require the `labels` of the pool.

        ValueError if the budget is larger than the pool.
        """
        pool = tuple(sorted(split.pool))
        removed, missing = remove_minority_images(pool, settings, labels)
        gone = set(chain.from_iterable(removed.values()))
        left = tuple(key for key in pool if key not in gone)
        num_labels = settings.num_labels
        if num_labels > len(left):
            raise ValueError(
                f"A budget of {num_labels} labels ({settings.first} and {settings.rounds} rounds of "
                f"{settings.per_round}) got a pool of {len(left)} images; expected at least {num_labels}. Lower "
                "budget.first, budget.rounds or budget.per_round, or enlarge the pool."
            )
        first = tuple(sorted(shuffled(left, settings.seed, _FIRST)[: settings.first]))
        whole = Split(val=tuple(sorted(split.val)), test=tuple(sorted(split.test)), pool=left)
        return cls(settings=settings, split=whole, removed=removed, missing=missing, pending=first)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        every = [*self.split.val, *self.split.test, *self.split.pool, *chain.from_iterable(self.removed.values())]
        if len(set(every)) < len(every):
            raise ValueError("an image is in more than one of val, test, pool and removed; expected disjoint sets")
        touched = [*self.labels, *self.pending]
        if len(set(touched)) < sum(map(len, self.rounds)) + len(self.pending) or not set(touched) <= set(
            self.split.pool
        ):
            raise ValueError("an image is labelled twice or is not in the pool")
        sizes = [*map(len, self.rounds), *([len(self.pending)] if self.pending else [])]
        expected = [self.settings.first, *[self.settings.per_round] * self.settings.rounds][: len(sizes)]
        if sizes != expected:
            raise ValueError(f"rounds of {sizes} labels; expected {expected}")
        return self

    @property
    def round(self) -> int:
        """The round whose labels are next: 0 for the first images, then 1 to settings.rounds."""
        return len(self.rounds)

    @property
    def is_spent(self) -> bool:
        """Whether the whole label budget is used."""
        return self.round > self.settings.rounds

    @property
    def labels(self) -> dict[str, Keys]:
        """key -> labels, in the order of the requests."""
        return {key: names for answers in self.rounds for key, names in answers.items()}

    @property
    def unlabelled(self) -> Keys:
        """Keys of the pool images that are neither labelled nor pending, sorted."""
        taken = {*self.labels, *self.pending}
        return tuple(key for key in self.split.pool if key not in taken)

    @property
    def query_seed(self) -> int:
        """The seed of this round's query."""
        return mix(self.settings.seed, _QUERY, self.round)

    def request(self, keys: Sequence[str]) -> Self:
        """The pool with these images pending. ValueError if images are pending already, or cannot be labelled."""
        if self.pending or self.is_spent:
            state = f"{len(self.pending)} images are pending" if self.pending else "the budget is spent"
            raise ValueError(
                f"Round {self.round} got a request for {len(keys)} images while {state}; expected no pending images "
                "and labels left in the budget. Label the pending images, or start a loop with more rounds."
            )
        strange = sorted(set(keys) - set(self.unlabelled))
        if strange or len(set(keys)) != self.settings.per_round or len(keys) != self.settings.per_round:
            raise ValueError(
                f"Round {self.round} got a request for {len(keys)} images, {len(set(keys))} of them distinct; "
                f"{strange or 'none'} have labels or are not in the pool; expected {self.settings.per_round} distinct "
                "images without labels. Request unlabelled images only."
            )
        return self._with(pending=tuple(keys))

    def answer(self, labels: Labels) -> Self:
        """The pool with the labels of all pending images; () for an image without any class. ValueError for others."""
        if not self.pending or set(labels) != set(self.pending):
            lacking, strange = sorted(set(self.pending) - set(labels)), sorted(set(labels) - set(self.pending))
            raise ValueError(
                f"Round {self.round} got labels of {len(labels)} images: {lacking or 'none'} are missing, "
                f"{strange or 'none'} were not requested; expected labels of the {len(self.pending)} pending images. "
                "Give all of them in one call."
            )
        answers = {key: tuple(labels[key]) for key in self.pending}
        return self._with(rounds=(*self.rounds, answers), pending=())

    def save(self, path: Path) -> None:
        """Write the pool as JSON, atomically."""
        write_json(path, self.model_dump(mode="json"), indent=1)

    @classmethod
    def load(cls, path: Path, settings: BudgetSettings) -> Self:
        """Read a pool. ValueError for a damaged file or other settings."""
        try:
            pool = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ValueError(
                f"{path} is not a valid state of a label-budget loop ({faults}); expected a file written by "
                "LabelPool.save. Restore it from a copy, or start the loop in an empty folder."
            ) from None
        ours, theirs = settings.model_dump(), pool.settings.model_dump()
        other = {name: (theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]}
        if other:
            changes = ", ".join(f"budget.{name} {before!r}, now {now!r}" for name, (before, now) in other.items())
            raise ValueError(
                f"{path} belongs to a loop with {changes}; expected the same settings. Undo the change, or start the "
                "loop in an empty folder."
            )
        return pool

    def _with(self, **changes: object) -> Self:
        return type(self).model_validate({**dict(self), **changes})


def rows_of(shards: ShardSet, keys: Sequence[str]) -> Rows:
    """Rows of these images. ValueError for keys that are not in the shard set."""
    absent = [key for key in keys if key not in shards.row_of_key]
    if absent:
        raise ValueError(
            f"{shards.path} has no samples {absent[:5]}{f' and {len(absent) - 5} more' if len(absent) > 5 else ''}; "
            f"expected all {len(keys)} images of the loop. Use the shard set with which the loop was started."
        )
    return np.array([shards.row_of_key[key] for key in keys], dtype=np.int64)
