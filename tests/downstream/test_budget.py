import pytest

from rspretrain.downstream.budget import BudgetSettings, random_split, shuffled

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
