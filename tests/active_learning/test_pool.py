import json
from pathlib import Path

import numpy as np
import pytest
from fakes.memory import memory_shards
from hypothesis import given, settings
from hypothesis import strategies as st

from rspretrain.active_learning.budget import BudgetSettings, random_split
from rspretrain.active_learning.pool import LabelPool, rows_of

KEYS = tuple(f"image-{i:04d}" for i in range(2100))
SMALL = BudgetSettings(val=5, test=7, first=4, per_round=3, rounds=5)
CLASSES = ("field", "forest", "water")


def labels_of(keys: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {key: CLASSES[: int(key[-1]) % 4] for key in keys}


def fresh(budget: BudgetSettings = SMALL, num: int = 60) -> LabelPool:
    return LabelPool.start(random_split(KEYS[:num], budget), budget)


def queried(pool: LabelPool) -> LabelPool:
    """A random query with the round's seed."""
    order = np.random.default_rng(pool.query_seed).permutation(len(pool.unlabelled))
    return pool.request([pool.unlabelled[i] for i in order[: pool.settings.per_round]])


def step(pool: LabelPool) -> LabelPool:
    return pool.answer(labels_of(pool.pending)) if pool.pending else queried(pool)


def test_the_default_rounds_are_those_of_the_paper() -> None:
    pool = fresh(BudgetSettings(), 2100)
    sizes = []
    while not pool.is_spent:
        pool = step(pool)
        labelled = {*pool.labels, *pool.pending}
        assert sorted([*labelled, *pool.unlabelled]) == list(pool.split.pool)  # a partition
        assert len(labelled) + len(pool.unlabelled) == 1050
        if not pool.pending:
            sizes.append(len(pool.labels))
    assert sizes == list(range(40, 441, 20))


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 12)), st.integers(0, 3))
def test_an_interrupted_loop_ends_as_an_uninterrupted_one(
    tmp_path_factory: pytest.TempPathFactory, stops: set[int], seed: int
) -> None:
    budget = SMALL.model_copy(update={"seed": seed})
    path = tmp_path_factory.mktemp("pool") / "pool.json"
    straight = stopped = fresh(budget)
    for number in range(11):
        if number in stops:
            stopped.save(path)
            stopped = LabelPool.load(path, budget)
        straight, stopped = step(straight), step(stopped)
        assert stopped == straight
    assert straight.is_spent


def test_runs_of_other_seeds_differ_in_split_first_images_and_queries() -> None:
    one, other = fresh(), fresh(SMALL.model_copy(update={"seed": 1}))
    assert one.split != other.split
    assert one.pending != other.pending
    seeds = {pool.query_seed for pool in (one, step(one), step(step(one)), other)}
    assert len(seeds) == 3  # one per round, not one per state


def test_the_first_images_are_random() -> None:
    counts = np.zeros(48)
    split = fresh().split
    for seed in range(300):
        pool = LabelPool.start(split, SMALL.model_copy(update={"seed": seed}))
        counts[[split.pool.index(key) for key in pool.pending]] += 1
    assert np.abs(counts - 25).max() < 25


def test_scenarios_remove_images_before_the_first_labels() -> None:
    budget = BudgetSettings(scenario=3, minority=CLASSES, seed=3)
    split = random_split(KEYS, budget)
    pool = LabelPool.start(split, budget, labels_of(split.pool))
    gone = {key for keys in pool.removed.values() for key in keys}
    assert gone
    assert set(pool.split.pool) == set(split.pool) - gone
    assert pool.missing == dict.fromkeys(CLASSES, 0)
    assert step(pool).round == 1


def test_no_image_is_requested_twice() -> None:
    pool = step(fresh())
    (known, *_), free = pool.labels, pool.unlabelled
    for keys in ([*free[:2], known], [*free[:2], pool.split.test[0]]):
        with pytest.raises(
            ValueError, match=rf"distinct; \['{keys[-1]}'\] have labels or are not in the pool; expected 3"
        ):
            pool.request(keys)
    with pytest.raises(ValueError, match=r"request for 3 images, 2 of them distinct; none have .* Request unlabelled"):
        pool.request([free[0], free[1], free[1]])
    with pytest.raises(ValueError, match=r"Round 1 got a request for 2 images, 2 of them distinct"):
        pool.request(free[:2])


def test_requests_and_answers_alternate() -> None:
    pool = fresh()
    with pytest.raises(ValueError, match=r"Round 0 got a request for 3 images while 4 images are pending; .* Label"):
        pool.request(pool.unlabelled[:3])
    while not pool.is_spent:
        pool = step(pool)
    with pytest.raises(ValueError, match=r"while the budget is spent; expected no pending images and"):
        pool.request(pool.unlabelled[:3])
    with pytest.raises(ValueError, match=r"got labels of 0 images: none are missing.* the 0 pending images"):
        pool.answer({})


def test_answers_must_label_exactly_the_pending_images() -> None:
    pool = fresh()
    lacking = labels_of(pool.pending[1:])
    with pytest.raises(
        ValueError, match=rf"Round 0 got labels of 3 images: \['{pool.pending[0]}'\] are missing, none were"
    ):
        pool.answer(lacking)
    with pytest.raises(
        ValueError, match=r"\['x'\] were not requested; expected labels of the 4 pending images\. Give all"
    ):
        pool.answer(labels_of(pool.pending) | {"x": ()})


def test_a_budget_larger_than_the_pool_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"budget of 19 labels \(4 and 5 rounds of 3\) got a pool of 18 images; expected at least 19\. Lower",
    ):
        fresh(num=30)


def test_a_state_with_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pool.json"
    fresh().save(path)
    with pytest.raises(
        ValueError,
        match=r"belongs to a loop with budget\.rounds 5, now 6, budget\.seed 0, now 1; .* Undo the change",
    ):
        LabelPool.load(path, SMALL.model_copy(update={"rounds": 6, "seed": 1}))


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("pending", ["nobody"] * 3, "an image is labelled twice or is not in the pool"),
        ("rounds", [], "rounds of [3] labels; expected [4]"),
        ("removed", {"sea": ["image-0003"]}, "an image is in more than one of val, test, pool and removed"),
        ("missing", "x", "missing: Input should be an object"),
    ],
)
def test_an_inconsistent_state_is_refused(field: str, value: object, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.json"
    step(step(fresh())).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match="is not a valid state of a label-budget loop .* Restore it from a") as error:
        LabelPool.load(path, SMALL)
    assert fault in str(error.value)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match=r"is not a valid state of a label-budget loop \(: Invalid JSON"):
        LabelPool.load(path, SMALL)


def test_keys_become_rows_of_the_shard_set(tmp_path: Path) -> None:
    shards = memory_shards(tmp_path / "shards", samples=10)
    keys = ["patch-00007", "patch-00002"]
    assert shards.keys(rows_of(shards, keys)) == keys
    with pytest.raises(ValueError, match=r"has no samples \['other'\]; expected all 3 images of the loop\. Use the"):
        rows_of(shards, [*keys, "other"])
