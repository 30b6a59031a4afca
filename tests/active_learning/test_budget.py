import pytest

from rspretrain.active_learning.budget import BudgetSettings, given_split, random_split, shuffled

KEYS = tuple(f"image-{i:04d}" for i in range(2100))


def test_the_papers_sizes() -> None:
    settings = BudgetSettings()
    split = random_split(KEYS, settings)
    assert (len(split.val), len(split.test), len(split.pool)) == (525, 525, 1050)
    assert sorted((*split.val, *split.test, *split.pool)) == list(KEYS)
    assert settings.budget == 440


def test_a_split_follows_the_seed_and_not_the_order_of_keys() -> None:
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


def test_orders_are_permutations() -> None:
    assert sorted(shuffled("abcdef", 1, 2)) == list("abcdef")
    assert shuffled("abcdef", 1, 2) != shuffled("abcdef", 1, 3)


def test_too_few_images() -> None:
    with pytest.raises(
        ValueError,
        match=r"525 validation, 525 test and some pool images got 1050 images; expected 1051 .* Lower budget",
    ):
        random_split(KEYS[:1050], BudgetSettings())


def test_known_images_are_held_out_first() -> None:
    known = KEYS[:30]
    split = random_split(KEYS[:60], BudgetSettings(val=10, test=15), known)
    assert {*split.val, *split.test} < set(known)
    assert set(known) - {*split.val, *split.test} < set(split.pool)
    assert random_split(KEYS[:60], BudgetSettings(val=10, test=15), KEYS) == random_split(
        KEYS[:60], BudgetSettings(val=10, test=15)
    )


def test_splits_of_an_archive_are_drawn_from() -> None:
    train, val, test = KEYS[:60], KEYS[60:80], KEYS[80:100]
    settings = BudgetSettings(val=5, test=7, pool=50)
    split = given_split(train, val, test, settings)
    assert (len(split.val), len(split.test), len(split.pool)) == (5, 7, 50)
    assert set(split.val) < set(val)
    assert set(split.test) < set(test)
    assert set(split.pool) < set(train)
    without_val = given_split(train, None, (*test, *train[:3]), settings)  # a test image never trains
    assert {*without_val.val, *without_val.pool} <= set(train[3:])
    assert not set(without_val.val) & set(without_val.pool)
    assert given_split(train, val, test, settings.model_copy(update={"seed": 1})).pool != split.pool
    with pytest.raises(ValueError, match=r"got 20 images for budget.test 21, 60 images for budget.pool 61; .* Lower"):
        given_split(train, val, test, BudgetSettings(val=5, test=21, pool=61))
