"""How many labels there are to spend, and which images may get them: the section `budget` (methods.md F.3)."""

from collections.abc import Container, Iterable, Sequence
from typing import Literal

from pydantic import Field

from rspretrain.rng import permutation
from rspretrain.settings import Settings

Keys = tuple[str, ...]

MINORITY = ("airplane", "chaparral", "court", "dock", "field", "mobile-home", "sea", "ship", "tanks")
_PURPOSE = 0x73706C74  # of the draw


class BudgetSettings(Settings):
    """How many images are labelled, and which there are. The defaults are those of Möllenbrok & Demir on UC-Merced."""

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
    def budget(self) -> int:
        """Images that have labels in the end."""
        return self.first + self.rounds * self.per_round


class Split(Settings):
    """Keys of three disjoint sets of images."""

    val: Keys
    test: Keys
    pool: Keys


def random_split(keys: Iterable[str], settings: BudgetSettings, known: Container[str] = ()) -> Split:
    """A random one, the same for any order of `keys`. ValueError where there are too few of them.

    Images whose labels are `known` are held out before others, whose labels would have to be asked for.
    """
    ordered = sorted(keys)
    held_out = settings.val + settings.test
    wanted = held_out + (settings.pool or 1)
    if len(ordered) < wanted:
        raise ValueError(
            f"A split into {settings.val} validation, {settings.test} test and {settings.pool or 'some'} pool images "
            f"got {len(ordered)} images; expected {wanted} at least. Lower budget.val, budget.test or budget.pool."
        )
    drawn = tuple(sorted(shuffled(ordered, settings.seed, _PURPOSE), key=lambda key: key not in known))
    end = None if settings.pool is None else held_out + settings.pool
    return Split(val=drawn[: settings.val], test=drawn[settings.val : held_out], pool=drawn[held_out:end])


def given_split(
    train: Iterable[str], val: Iterable[str] | None, test: Iterable[str], settings: BudgetSettings
) -> Split:
    """As many random images of an archive's own splits; validation images are drawn from `train` where `val` is None.

    ValueError where there are too few.
    """
    trained, tested = sorted(set(train) - set(test)), shuffled(sorted(test), settings.seed, _PURPOSE, 1)
    drawn = shuffled(trained, settings.seed, _PURPOSE)
    start = 0 if val is not None else settings.val
    validated = drawn[:start] if val is None else shuffled(sorted(val), settings.seed, _PURPOSE, 2)
    counts = {"val": (len(validated), settings.val), "test": (len(tested), settings.test)}
    counts["pool"] = (len(drawn) - start, settings.pool or 1)
    if few := {name: got for name, (got, wanted) in counts.items() if got < wanted}:
        told = ", ".join(f"{max(0, got)} images for budget.{name} {counts[name][1]}" for name, got in few.items())
        raise ValueError(
            f"The archive's splits got {told}; expected as many as that. Lower these numbers, or leave out "
            "labels.train_split and labels.test_split for a random split of all images."
        )
    end = None if settings.pool is None else start + settings.pool
    return Split(val=validated[: settings.val], test=tested[: settings.test], pool=drawn[start:end])


def shuffled(keys: Sequence[str], *words: int) -> Keys:
    """In an order that is a function of `words`."""
    return tuple(keys[i] for i in permutation(len(keys), *words))
