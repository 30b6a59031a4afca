from itertools import combinations

import numpy as np
import pytest

from rspretrain.active_learning.budget import MINORITY, BudgetSettings
from rspretrain.active_learning.imbalance import REMOVED, Labels, reduce

POOL = tuple(f"image-{i:04d}" for i in range(1050))


def labels(share: float = 0.05) -> Labels:
    """About 50 images of every minority class, some with several of them."""
    has = np.random.default_rng(0).random((len(POOL), len(MINORITY))) < share
    return {key: ("trees", *np.array(MINORITY)[each].tolist()) for key, each in zip(POOL, has, strict=True)}


def lost(name: str, removed: dict[str, tuple[str, ...]], known: Labels) -> int:
    return sum(name in known[key] for keys in removed.values() for key in keys)


@pytest.mark.parametrize("scenario", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_each_of_three_classes_loses_its_number(scenario: int, seed: int) -> None:
    known, number = labels(), REMOVED[scenario]
    removed, missing = reduce(POOL, BudgetSettings(scenario=scenario, seed=seed), known)
    assert len(removed) == 3
    assert set(removed) <= set(MINORITY)
    assert set(missing.values()) == {0}
    gone = [key for keys in removed.values() for key in keys]
    assert len(set(gone)) == len(gone) <= 3 * number
    for name, keys in removed.items():
        assert all(name in known[key] for key in keys)
        assert number <= lost(name, removed, known) <= number + 8  # of 20 or 40, some also carry another class
    last = list(removed)[-1]
    assert lost(last, removed, known) == number


def test_images_of_several_classes_count_for_each() -> None:
    both = {key: MINORITY[:3] if i < 100 else ("trees",) for i, key in enumerate(POOL)}
    settings = BudgetSettings(scenario=2, minority=MINORITY[:3])
    removed, _ = reduce(POOL, settings, both)
    assert sorted(map(len, removed.values())) == [0, 0, 20]


@pytest.mark.parametrize("seed", range(20))
def test_what_scenario_2_removes_scenario_3_removes_too(seed: int) -> None:
    known = labels(0.1)
    gone = [
        {key for keys in reduce(POOL, BudgetSettings(scenario=scenario, seed=seed), known)[0].values() for key in keys}
        for scenario in (1, 2, 3)
    ]
    assert gone[0] == set()
    assert gone[1] < gone[2]


def test_dock_and_ship_are_never_both_reduced_and_all_else_is_equally_likely() -> None:
    known = labels()
    chosen = [tuple(reduce(POOL, BudgetSettings(scenario=2, seed=seed), known)[0]) for seed in range(400)]
    allowed = [each for each in combinations(MINORITY, 3) if not {"dock", "ship"} <= set(each)]
    assert len(allowed) == 84 - 7
    assert set(chosen) <= set(allowed)
    assert len(set(chosen)) > 70  # of 77; 400 draws leave out 0.4 on average
    assert sum("dock" in each for each in chosen) / 400 == pytest.approx(21 / 77, abs=0.09)


def test_a_class_with_too_few_images_loses_all_and_is_told() -> None:
    known = {key: ("sea",) if i < 25 else ("ship", "dock")[i % 2 :] for i, key in enumerate(POOL)}
    settings = BudgetSettings(scenario=3, minority=("sea", "ship"), num_reduced=2)
    removed, missing = reduce(POOL, settings, known)
    assert removed["sea"] == POOL[:25]
    assert missing == {"sea": 15, "ship": 0}


def test_bad_requests_name_what_there_is() -> None:
    with pytest.raises(
        ValueError, match=r"Scenario 2 got labels of 0 of 1050 images; expected .* whole pool.* Use budget\.scenario=1"
    ):
        reduce(POOL, BudgetSettings(scenario=2), None)
    with pytest.raises(
        ValueError, match=r"of which \['sand'\] have no image; expected classes .* Set budget\.minority"
    ):
        reduce(POOL, BudgetSettings(scenario=2, minority=("sand", *MINORITY)), labels())
    settings = BudgetSettings(scenario=2, minority=("dock", "ship", "sea"))
    with pytest.raises(ValueError, match=r"minority classes \['dock', 'ship', 'sea'\].* 3 that may go together"):
        reduce(POOL, settings, labels())
