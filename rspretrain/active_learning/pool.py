"""Which images of a label-budget loop have labels, may get some, or only measure (methods.md F.3).

A pool is one immutable value: every round asks for some images and gets their answers, each a new pool. Saved after
each of the two steps, a loop goes on from there as if it had not been interrupted. Images are named by their keys, so
that a pool outlives another build of its shard set.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from rspretrain.active_learning.budget import BudgetSettings, Keys, Split, shuffled
from rspretrain.active_learning.imbalance import Labels, reduce
from rspretrain.arrays import Rows
from rspretrain.files import write_json
from rspretrain.rng import mix
from rspretrain.settings import Settings
from rspretrain.shardset.index import ShardSet

_FIRST, _QUERY = 0x66697273, 0x71756572  # purposes of the draws


@final
class LabelPool(Settings):
    """The state of a loop: made by `start`, changed by `asked` and `answered`, kept by `save` and `load`."""

    settings: BudgetSettings
    split: Split  # its pool is what scenarios left
    removed: dict[str, Keys]  # reduced class -> keys that left the pool for it
    missing: dict[str, int]  # reduced class -> how many images too few it had to lose all that it should
    rounds: tuple[dict[str, Keys], ...] = ()  # key -> labels, of the first images and of each query
    pending: Keys = ()  # asked for, not answered

    @classmethod
    def start(cls, split: Split, settings: BudgetSettings, labels: Labels | None = None) -> Self:
        """The pool before its first labels, which are pending. `labels` of the pool are needed by scenarios 2 and 3.

        ValueError where the budget is larger than the pool.
        """
        pool = tuple(sorted(split.pool))
        removed, missing = reduce(pool, settings, labels)
        gone = set(chain.from_iterable(removed.values()))
        left = tuple(key for key in pool if key not in gone)
        if settings.budget > len(left):
            raise ValueError(
                f"A budget of {settings.budget} labels ({settings.first} and {settings.rounds} rounds of "
                f"{settings.per_round}) got a pool of {len(left)} images; expected {settings.budget} at least. Lower "
                "budget.first, budget.rounds or budget.per_round, or enlarge the pool."
            )
        first = tuple(sorted(shuffled(left, settings.seed, _FIRST)[: settings.first]))
        whole = Split(val=tuple(sorted(split.val)), test=tuple(sorted(split.test)), pool=left)
        return cls(settings=settings, split=whole, removed=removed, missing=missing, pending=first)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        every = [*self.split.val, *self.split.test, *self.split.pool, *chain.from_iterable(self.removed.values())]
        if len(set(every)) < len(every):
            raise ValueError("an image is in more than one of val, test, pool and removed; expected each in one")
        touched = [*self.labels, *self.pending]
        if len(set(touched)) < sum(map(len, self.rounds)) + len(self.pending) or not set(touched) <= set(
            self.split.pool
        ):
            raise ValueError("an image is labelled twice, or is labelled without being in the pool")
        sizes = [*map(len, self.rounds), *([len(self.pending)] if self.pending else [])]
        expected = [self.settings.first, *[self.settings.per_round] * self.settings.rounds][: len(sizes)]
        if sizes != expected:
            raise ValueError(f"rounds of {sizes} labels; expected {expected}")
        return self

    @property
    def round(self) -> int:
        """The number of the round whose labels come next: 0 for the first images, then 1 to settings.rounds."""
        return len(self.rounds)

    @property
    def is_spent(self) -> bool:
        """Whether all labels of the budget were given."""
        return self.round > self.settings.rounds

    @property
    def labels(self) -> dict[str, Keys]:
        """key -> labels, in the order in which they were asked for."""
        return {key: names for answers in self.rounds for key, names in answers.items()}

    @property
    def unlabelled(self) -> Keys:
        """Keys of the pool that may be asked for, sorted."""
        taken = {*self.labels, *self.pending}
        return tuple(key for key in self.split.pool if key not in taken)

    @property
    def query_seed(self) -> int:
        """Of this round's query."""
        return mix(self.settings.seed, _QUERY, self.round)

    def asked(self, keys: Sequence[str]) -> Self:
        """With these images pending. ValueError where a round is open, or for images that cannot be labelled."""
        if self.pending or self.is_spent:
            state = f"{len(self.pending)} images wait for labels" if self.pending else "the budget is spent"
            raise ValueError(
                f"Round {self.round} was asked for {len(keys)} images while {state}; expected an open budget and "
                "nothing pending. Answer first, or start a loop with more rounds."
            )
        strange = sorted(set(keys) - set(self.unlabelled))
        if strange or len(set(keys)) != self.settings.per_round or len(keys) != self.settings.per_round:
            raise ValueError(
                f"Round {self.round} was asked for {len(keys)} images, {len(set(keys))} different ones, of which "
                f"{strange or 'none'} have labels or are not in the pool; expected {self.settings.per_round} different "
                "ones without labels. Query the unlabelled images only."
            )
        return self._with(pending=tuple(keys))

    def answered(self, labels: Labels) -> Self:
        """With the labels of all pending images, () where none of the classes is seen. ValueError for other images."""
        if not self.pending or set(labels) != set(self.pending):
            lacking, strange = sorted(set(self.pending) - set(labels)), sorted(set(labels) - set(self.pending))
            raise ValueError(
                f"Round {self.round} got labels of {len(labels)} images: {lacking or 'none'} are missing, "
                f"{strange or 'none'} were not asked for; expected those of the {len(self.pending)} pending images. "
                "Give all of them together."
            )
        answers = {key: tuple(labels[key]) for key in self.pending}
        return self._with(rounds=(*self.rounds, answers), pending=())

    def targets(self, classes: Sequence[str]) -> tuple[Keys, NDArray[np.bool_]]:
        """Keys [M] and multi-hot labels [M K] of all labelled images, sorted by key."""
        labels, position = self.labels, {name: i for i, name in enumerate(classes)}
        keys = tuple(sorted(labels))
        hot = np.zeros((len(keys), len(classes)), dtype=np.bool_)
        for row, key in enumerate(keys):
            hot[row, [position[name] for name in labels[key]]] = True
        return keys, hot

    def save(self, path: Path) -> None:
        """Write it as JSON; the old file or the new one, never a half."""
        write_json(path, self.model_dump(mode="json"), indent=1)

    @classmethod
    def load(cls, path: Path, settings: BudgetSettings) -> Self:
        """Read it. ValueError where it is damaged, or belongs to a loop of other settings."""
        try:
            pool = cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ValueError(
                f"{path} is not the state of a label-budget loop ({faults}); expected what LabelPool.save wrote. "
                "Restore it from a copy, or start the loop in an empty folder."
            ) from None
        ours, theirs = settings.model_dump(), pool.settings.model_dump()
        other = {name: (theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]}
        if other:
            told = ", ".join(f"budget.{name} {before!r}, now {now!r}" for name, (before, now) in other.items())
            raise ValueError(
                f"{path} belongs to a loop with {told}; expected the same settings to go on with. Take back the "
                "change, or start the loop in an empty folder."
            )
        return pool

    def _with(self, **changes: object) -> Self:
        return type(self).model_validate({**dict(self), **changes})


def rows_of(shards: ShardSet, keys: Sequence[str]) -> Rows:
    """The rows of these images. ValueError for keys that the set does not have."""
    absent = [key for key in keys if key not in shards.row_of_key]
    if absent:
        raise ValueError(
            f"{shards.path} has no samples {absent[:5]}{f' and {len(absent) - 5} more' if len(absent) > 5 else ''}; "
            f"expected all {len(keys)} images of the loop. Open the shard set that the loop was started with."
        )
    return np.array([shards.row_of_key[key] for key in keys], dtype=np.int64)
