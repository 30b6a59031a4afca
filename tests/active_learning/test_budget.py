from itertools import combinations

import numpy as np
import pytest

from rspretrain.active_learning.budget import (
    MINORITY,
    NUM_REMOVED,
    BudgetSettings,
    Labels,
    random_split,
    remove_minority_images,
    sample_splits,
    shuffled,
)

KEYS = tuple(f"image-{i:04d}" for i in range(2100))
POOL = KEYS[:1050]


def test_the_default_sizes_are_those_of_the_paper() -> None:
    settings = BudgetSettings()
    split = random_split(KEYS, settings)
    assert (len(split.val), len(split.test), len(split.pool)) == (525, 525, 1050)
    assert sorted((*split.val, *split.test, *split.pool)) == list(KEYS)
    assert settings.num_labels == 440


def test_a_split_depends_on_the_seed_but_not_on_the_order_of_keys() -> None:
    settings = BudgetSettings(val=10, test=20, pool=30)
    split = random_split(KEYS, settings)
    assert random_split(reversed(KEYS), settings) == split
    assert len(split.pool) == 30
    other = random_split(KEYS, BudgetSettings(val=10, test=20, pool=30, seed=1))
    assert len(set(other.val) & set(split.val)) < 5
    assert random_split(KEYS, BudgetSettings(val=0, test=0)).val == ()


def test_every_image_is_held_out_equally_often() -> None:
    counts = dict.fromkeys(KEYS[:20], 0)
    for seed in range(400):
        for key in random_split(counts, BudgetSettings(val=5, test=5, seed=seed)).val:
            counts[key] += 1
    assert all(abs(count - 100) < 45 for count in counts.values())  # 5 deviations of a binomial(400, 1/4)


def test_shuffled_returns_a_permutation() -> None:
    assert sorted(shuffled("abcdef", 1, 2)) == list("abcdef")
    assert shuffled("abcdef", 1, 2) != shuffled("abcdef", 1, 3)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"525 validation, 525 test and some pool images got 1050 images; expected at least 1051\. Lower budget",
    ):
        random_split(KEYS[:1050], BudgetSettings())


def test_labelled_images_are_held_out_first() -> None:
    known = KEYS[:30]
    split = random_split(KEYS[:60], BudgetSettings(val=10, test=15), known)
    assert {*split.val, *split.test} < set(known)
    assert set(known) - {*split.val, *split.test} < set(split.pool)
    assert random_split(KEYS[:60], BudgetSettings(val=10, test=15), KEYS) == random_split(
        KEYS[:60], BudgetSettings(val=10, test=15)
    )


def test_samples_of_an_archives_splits() -> None:
    train, val, test = KEYS[:60], KEYS[60:80], KEYS[80:100]
    settings = BudgetSettings(val=5, test=7, pool=50)
    split = sample_splits(train, val, test, settings)
    assert (len(split.val), len(split.test), len(split.pool)) == (5, 7, 50)
    assert set(split.val) < set(val)
    assert set(split.test) < set(test)
    assert set(split.pool) < set(train)
    without_val = sample_splits(train, None, (*test, *train[:3]), settings)  # test images are not used for training
    assert {*without_val.val, *without_val.pool} <= set(train[3:])
    assert not set(without_val.val) & set(without_val.pool)
    assert sample_splits(train, val, test, settings.model_copy(update={"seed": 1})).pool != split.pool
    with pytest.raises(ValueError, match=r"have 20 images for budget.test 21, 60 images for budget.pool 61; .* Lower"):
        sample_splits(train, val, test, BudgetSettings(val=5, test=21, pool=61))


def minority_labels(probability: float = 0.05) -> Labels:
    """About 50 images of each minority class, some with several of them."""
    has = np.random.default_rng(0).random((len(POOL), len(MINORITY))) < probability
    return {key: ("trees", *np.array(MINORITY)[each].tolist()) for key, each in zip(POOL, has, strict=True)}


def num_lost(name: str, removed: dict[str, tuple[str, ...]], labels: Labels) -> int:
    return sum(name in labels[key] for keys in removed.values() for key in keys)


@pytest.mark.parametrize("scenario", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_scenarios_reduce_three_classes_by_their_number(scenario: int, seed: int) -> None:
    labels, number = minority_labels(), NUM_REMOVED[scenario]
    removed, missing = remove_minority_images(POOL, BudgetSettings(scenario=scenario, seed=seed), labels)
    assert len(removed) == 3
    assert set(removed) <= set(MINORITY)
    assert set(missing.values()) == {0}
    gone = [key for keys in removed.values() for key in keys]
    assert len(set(gone)) == len(gone) <= 3 * number
    for name, keys in removed.items():
        assert all(name in labels[key] for key in keys)
        assert number <= num_lost(name, removed, labels) <= number + 8  # of 20 or 40, some have another class, too
    last = list(removed)[-1]
    assert num_lost(last, removed, labels) == number


def test_an_image_of_several_classes_counts_for_each() -> None:
    labels = {key: MINORITY[:3] if i < 100 else ("trees",) for i, key in enumerate(POOL)}
    settings = BudgetSettings(scenario=2, minority=MINORITY[:3])
    removed, _ = remove_minority_images(POOL, settings, labels)
    assert sorted(map(len, removed.values())) == [0, 0, 20]


@pytest.mark.parametrize("seed", range(20))
def test_scenario_3_removes_all_images_that_scenario_2_removes(seed: int) -> None:
    labels, gone = minority_labels(0.1), []
    for scenario in (1, 2, 3):
        removed, _ = remove_minority_images(POOL, BudgetSettings(scenario=scenario, seed=seed), labels)
        gone.append({key for keys in removed.values() for key in keys})
    assert gone[0] == set()
    assert gone[1] < gone[2]


def test_permitted_choices_of_reduced_classes_are_equally_likely() -> None:
    """Dock and ship are never reduced together."""
    labels = minority_labels()
    settings = [BudgetSettings(scenario=2, seed=seed) for seed in range(400)]
    chosen = [tuple(remove_minority_images(POOL, each, labels)[0]) for each in settings]
    allowed = [each for each in combinations(MINORITY, 3) if not {"dock", "ship"} <= set(each)]
    assert len(allowed) == 84 - 7
    assert set(chosen) <= set(allowed)
    assert len(set(chosen)) > 70  # of 77; 400 draws miss 0.4 on average
    assert sum("dock" in each for each in chosen) / 400 == pytest.approx(21 / 77, abs=0.09)


def test_a_class_with_too_few_images_loses_all_and_is_reported() -> None:
    labels = {key: ("sea",) if i < 25 else ("ship", "dock")[i % 2 :] for i, key in enumerate(POOL)}
    settings = BudgetSettings(scenario=3, minority=("sea", "ship"), num_reduced=2)
    removed, missing = remove_minority_images(POOL, settings, labels)
    assert removed["sea"] == POOL[:25]
    assert missing == {"sea": 15, "ship": 0}


def test_invalid_scenarios_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Scenario 2 got labels of 0 of 1050 images; expected .* whole pool.* Set budget\.scenario=1"
    ):
        remove_minority_images(POOL, BudgetSettings(scenario=2), None)
    with pytest.raises(
        ValueError, match=r"of which \['sand'\] have no image; expected classes .* Set budget\.minority"
    ):
        unknown = BudgetSettings(scenario=2, minority=("sand", *MINORITY))
        remove_minority_images(POOL, unknown, minority_labels())
    settings = BudgetSettings(scenario=2, minority=("dock", "ship", "sea"))
    with pytest.raises(ValueError, match=r"minority classes \['dock', 'ship', 'sea'\].* 3 that may be combined"):
        remove_minority_images(POOL, settings, minority_labels())
