"""How many labels there are to spend, and which images may get them: the section `budget` (methods.md F.3)."""

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from rspretrain.keyed import permutation
from rspretrain.settings import Settings

Keys = tuple[str, ...]

MINORITY = ("airplane", "chaparral", "court", "dock", "field", "mobile-home", "sea", "ship", "tanks")
_PURPOSE = 0x73706C74  # of the draw


class BudgetSettings(Settings):
    """How many images are labelled, and which there are. The defaults are those of Möllenbrok & Demir on UC-Merced."""

    val: int = Field(525, ge=0, description="images of the validation split, drawn at random")
    test: int = Field(525, ge=0, description="images of the test split, drawn at random")
    pool: int | None = Field(None, ge=1, description="images that may be labelled; none: all others")
    first: int = Field(40, ge=1, description="images that are labelled before the first query, drawn at random")
    per_round: int = Field(20, ge=1, description="images that are labelled after each query (b)")
    rounds: int = Field(20, ge=0, description="queries; the last evaluation has first + rounds * per_round labels")
    scenario: Literal[1, 2, 3] = Field(1, description="imbalance: 0, 20 or 40 images of some classes leave the pool")
    minority: Keys = Field(MINORITY, description="classes of which some are reduced")
    num_reduced: int = Field(3, ge=1, description="how many of these are")
    never_together: tuple[tuple[str, str], ...] = Field(
        (("dock", "ship"),), description="of which not both are reduced: 98 % of UC-Merced's ships lie at docks"
    )
    seed: int = Field(0, description="of every random choice; another one is another run")

    @property
    def budget(self) -> int:
        """Images that have labels in the end."""
        return self.first + self.rounds * self.per_round


class Split(Settings):
    """Keys of three disjoint sets of images."""

    val: Keys
    test: Keys
    pool: Keys


def random_split(keys: Iterable[str], settings: BudgetSettings) -> Split:
    """A random one, the same for any order of `keys`. ValueError where there are too few of them.

    For an archive with splits of its own, make a `Split` of these instead.
    """
    ordered = sorted(keys)
    held_out = settings.val + settings.test
    wanted = held_out + (settings.pool or 1)
    if len(ordered) < wanted:
        raise ValueError(
            f"A split into {settings.val} validation, {settings.test} test and {settings.pool or 'some'} pool images "
            f"got {len(ordered)} images; expected {wanted} at least. Lower budget.val, budget.test or budget.pool."
        )
    drawn = shuffled(ordered, settings.seed, _PURPOSE)
    end = None if settings.pool is None else held_out + settings.pool
    return Split(val=drawn[: settings.val], test=drawn[settings.val : held_out], pool=drawn[held_out:end])


def shuffled(keys: Sequence[str], *words: int) -> Keys:
    """In an order that is a function of `words`."""
    return tuple(keys[i] for i in permutation(len(keys), *words))
