"""The label budget, the splits of the images and the imbalance scenarios: the section `budget`.

See docs/methods.md, Label-budget loop and Imbalance scenarios.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain, combinations
from typing import Literal

from pydantic import Field

from rspretrain.rng import mix, permutation
from rspretrain.settings import Settings

Keys = tuple[str, ...]
Labels = Mapping[str, Sequence[str]]  # key -> names of its classes

MINORITY = ("airplane", "chaparral", "court", "dock", "field", "mobile-home", "sea", "ship", "tanks")
NUM_REMOVED = {1: 0, 2: 20, 3: 40}  # images removed per reduced class, by scenario
_SPLIT, _CLASSES, _REMOVAL = 0x73706C74, 0x636C6173, 0x72656D76  # separate the draws that share a seed


class BudgetSettings(Settings):
    """Sizes of the splits and of the label budget. The defaults are those of Möllenbrok & Demir on UC-Merced."""

    val: int = Field(default=525, ge=0, description="Number of images in the random validation split.")
    test: int = Field(default=525, ge=0, description="Number of images in the random test split.")
    pool: int | None = Field(
        default=None, ge=1, description="Number of images that may be labelled (the pool). null: all others."
    )
    first: int = Field(default=40, ge=1, description="Number of images in the random initial set of labels.")
    per_round: int = Field(default=20, ge=1, description="Number of images to label per round.")
    rounds: int = Field(
        default=20, ge=0, description="Number of queries. The final evaluation uses first + rounds * per_round labels."
    )
    scenario: Literal[1, 2, 3] = Field(
        default=1,
        description="Class imbalance: 1 removes nothing; 2 and 3 remove 20 and 40 images of some classes from"
        " the pool.",
    )
    minority: Keys = Field(default=MINORITY, description="Classes that may be reduced, for scenario 2 and 3.")
    num_reduced: int = Field(default=3, ge=1, description="Number of reduced classes, for scenario 2 and 3.")
    never_together: tuple[tuple[str, str], ...] = Field(
        default=(("dock", "ship"),),
        description="Pairs of classes that are not both reduced. Default: 98 % of UC-Merced's images with "
        "ships show docks.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the splits, the initial set and the queries.")

    @property
    def num_labels(self) -> int:
        """The label budget: labelled images after the last round."""
        return self.first + self.rounds * self.per_round


class Split(Settings):
    """Keys of the validation, test and pool images; disjoint."""

    val: Keys
    test: Keys
    pool: Keys


def random_split(keys: Iterable[str], settings: BudgetSettings, known: Container[str] = ()) -> Split:
    """A random split that does not depend on the order of `keys`. ValueError for too few images.

    Images with `known` labels are held out first, because the labels of others would have to be requested.
    """
    ordered = sorted(keys)
    held_out = settings.val + settings.test
    wanted = held_out + (settings.pool or 1)
    if len(ordered) < wanted:
        raise ValueError(
            f"A split into {settings.val} validation, {settings.test} test and {settings.pool or 'some'} pool images "
            f"got {len(ordered)} images; expected at least {wanted}. Lower budget.val, budget.test or budget.pool."
        )
    drawn = tuple(sorted(shuffled(ordered, settings.seed, _SPLIT), key=lambda key: key not in known))
    end = None if settings.pool is None else held_out + settings.pool
    return Split(val=drawn[: settings.val], test=drawn[settings.val : held_out], pool=drawn[held_out:end])


def sample_splits(
    train: Iterable[str], val: Iterable[str] | None, test: Iterable[str], settings: BudgetSettings
) -> Split:
    """Random subsets of an archive's own splits. Validation images are drawn from `train` if `val` is None.

    ValueError for too few images.
    """
    train_keys, test_keys = sorted(set(train) - set(test)), shuffled(sorted(test), settings.seed, _SPLIT, 1)
    drawn = shuffled(train_keys, settings.seed, _SPLIT)
    start = 0 if val is not None else settings.val
    val_keys = drawn[:start] if val is None else shuffled(sorted(val), settings.seed, _SPLIT, 2)
    counts = {"val": (len(val_keys), settings.val), "test": (len(test_keys), settings.test)}
    counts["pool"] = (len(drawn) - start, settings.pool or 1)
    if few := {name: got for name, (got, wanted) in counts.items() if got < wanted}:
        lacking = ", ".join(f"{max(0, got)} images for budget.{name} {counts[name][1]}" for name, got in few.items())
        raise ValueError(
            f"The archive's splits have {lacking}; expected at least these numbers. Lower them, or remove "
            "labels.train_split and labels.test_split for a random split of all images."
        )
    end = None if settings.pool is None else start + settings.pool
    return Split(val=val_keys[: settings.val], test=test_keys[: settings.test], pool=drawn[start:end])


def shuffled(keys: Sequence[str], *words: int) -> Keys:
    """`keys` in a random order that depends on `words` only."""
    return tuple(keys[i] for i in permutation(len(keys), *words))


def remove_minority_images(
    pool: Keys, settings: BudgetSettings, labels: Labels | None
) -> tuple[dict[str, Keys], dict[str, int]]:
    """Apply the imbalance scenario: reduced class -> keys to remove from the pool, and -> number of images it lacks.

    A removed image counts for all of its classes. So a class may lose a few images more than its number, and the
    classes together lose fewer than three times that number. Scenario 3 removes the images that
    scenario 2 removes, unless images of the first classes exhaust the number of a later one.
    """
    if not NUM_REMOVED[settings.scenario]:
        return {}, {}
    if labels is None or not set(pool) <= set(labels):
        raise ValueError(
            f"Scenario {settings.scenario} got labels of {len(set(labels or ()) & set(pool))} of {len(pool)} images; "
            "expected labels of the whole pool, to remove images by class. Set budget.scenario=1 if labels are not "
            "known beforehand."
        )
    gone: set[str] = set()
    removed, missing = {}, {}
    for number, name in enumerate(_reduced_classes(settings, set(chain.from_iterable(labels.values())))):
        having = [key for key in pool if name in labels[key]]
        wanted = NUM_REMOVED[settings.scenario] - len(gone.intersection(having))
        left = [key for key in shuffled(having, settings.seed, _REMOVAL, number) if key not in gone]
        removed[name] = tuple(sorted(left[: max(0, wanted)]))
        missing[name] = max(0, wanted - len(left))
        gone.update(removed[name])
    return removed, missing


def _reduced_classes(settings: BudgetSettings, occurring: set[str]) -> Keys:
    """A random choice of minority classes; all permitted choices are equally likely."""
    unknown = sorted(set(settings.minority) - occurring)
    allowed = [
        chosen
        for chosen in combinations(settings.minority, settings.num_reduced)
        if not any(set(pair) <= set(chosen) for pair in settings.never_together)
    ]
    if unknown or not allowed:
        raise ValueError(
            f"Scenario {settings.scenario} got the minority classes {list(settings.minority)}, of which {unknown} have "
            f"no image; expected classes of this archive, and {settings.num_reduced} that may be combined. Set "
            "budget.minority, budget.num_reduced and budget.never_together."
        )
    return allowed[mix(settings.seed, _CLASSES) % len(allowed)]
