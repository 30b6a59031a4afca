"""Scenarios of class imbalance: images of three minority classes leave the pool before anything is labelled.

Möllenbrok & Demir, section 3; methods.md F.5. Scenario 1 removes none, 2 removes 20 of each class, 3 removes 40.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, combinations

from rspretrain.active_learning.budget import BudgetSettings, Keys, shuffled
from rspretrain.rng import mix

Labels = Mapping[str, Sequence[str]]  # key -> names of its classes

REMOVED = {1: 0, 2: 20, 3: 40}  # images of each reduced class, by scenario
_CLASSES, _REMOVAL = 0x636C6173, 0x72656D76  # purposes of the draws


def reduce(pool: Keys, settings: BudgetSettings, labels: Labels | None) -> tuple[dict[str, Keys], dict[str, int]]:
    """Which images leave the pool, by the class for which they do, and what lacks of a class's number.

    An image that leaves for one class counts for all that it has, so a class may lose a few more than its number, and
    all together lose fewer than three times that. Scenario 2's images leave in scenario 3, too.
    """
    if not REMOVED[settings.scenario]:
        return {}, {}
    if labels is None or not set(pool) <= set(labels):
        raise ValueError(
            f"Scenario {settings.scenario} got labels of {len(set(labels or ()) & set(pool))} of {len(pool)} images; "
            "expected those of the whole pool, to remove images by class. Use budget.scenario=1 where labels are not "
            "known beforehand."
        )
    gone: set[str] = set()
    removed, missing = {}, {}
    for number, name in enumerate(_reduced_classes(settings, set(chain.from_iterable(labels.values())))):
        having = [key for key in pool if name in labels[key]]
        wanted = REMOVED[settings.scenario] - len(gone.intersection(having))
        left = [key for key in shuffled(having, settings.seed, _REMOVAL, number) if key not in gone]
        removed[name] = tuple(sorted(left[: max(0, wanted)]))
        missing[name] = max(0, wanted - len(left))
        gone.update(removed[name])
    return removed, missing


def _reduced_classes(settings: BudgetSettings, occurring: set[str]) -> Keys:
    """Some of the minority classes that go together, all such choices equally likely."""
    unknown = sorted(set(settings.minority) - occurring)
    allowed = [
        chosen
        for chosen in combinations(settings.minority, settings.num_reduced)
        if not any(set(pair) <= set(chosen) for pair in settings.never_together)
    ]
    if unknown or not allowed:
        raise ValueError(
            f"Scenario {settings.scenario} got the minority classes {list(settings.minority)}, of which {unknown} have "
            f"no image; expected classes of this archive, and {settings.num_reduced} that may go together. Set "
            "budget.minority, budget.num_reduced and budget.never_together."
        )
    return allowed[mix(settings.seed, _CLASSES) % len(allowed)]
