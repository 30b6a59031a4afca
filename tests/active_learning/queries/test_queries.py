"""Properties of all query functions."""

import numpy as np
import pytest
import torch
from gloo import run_ranks

from active_learning.queries.cases import candidates, query, settings, table
from rspretrain import world
from rspretrain.active_learning.queries import QUERIES, choose
from rspretrain.active_learning.queries.candidates import Candidates, gather_candidates

NAMES = list(QUERIES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("budget", [1, 7, 60])
def test_the_choice_has_the_requested_number_of_distinct_rows(name: str, multi: bool, budget: int) -> None:
    pool = candidates(multi=multi)
    rows = choose(settings(name), pool, budget, seed=3)
    assert rows.shape == (budget,)
    assert len(set(rows)) == budget
    assert set(rows) <= set(pool.rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_choice_depends_on_candidates_and_seed_only(name: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (scikit-learn's default)
    first = choose(settings(name), candidates(), 9, seed=3).tolist()
    assert choose(settings(name), candidates(), 9, seed=3).tolist() == first
    others = [choose(settings(name), candidates(), 9, seed=seed).tolist() for seed in range(4, 9)]
    assert any(rows != first for rows in others) == (name not in ("entropy", "coreset"))


@pytest.mark.parametrize("name", NAMES)
def test_identical_images_are_chosen_once_each(name: str) -> None:
    alike = Candidates(np.arange(5, 12), torch.ones(7, 3), torch.full((7, 2), 0.5), torch.ones(2, 3))
    assert sorted(choose(settings(name), alike, 7, seed=0)) == list(range(5, 12))


def chosen_of_rank() -> dict[str, list[int]]:
    rows, x, p, labelled = table()
    order = np.random.default_rng(0).permutation(len(rows))
    mine = order[41:] if world.rank() else order[:41]  # different numbers, unsorted, labelled images on both ranks
    pool = gather_candidates(rows[mine], x[mine], p[mine], labelled[mine])
    chosen = {name: choose(settings(name), pool, 9, seed=3).tolist() for name in NAMES}
    return chosen | {"of the first rank": choose(settings("random"), pool, 9, seed=world.rank()).tolist()}


def test_two_ranks_choose_the_same_images_as_one_process() -> None:
    alone = {name: choose(settings(name), candidates(), 9, seed=3).tolist() for name in NAMES}
    alone["of the first rank"] = choose(settings("random"), candidates(), 9, seed=0).tolist()
    assert run_ranks(2, chosen_of_rank) == [alone, alone]


def test_mge_uses_its_setting_uncertain() -> None:
    pool = candidates()
    rows = choose(settings("mge", uncertain=1), pool, 12, seed=3)
    assert rows.tolist() == pool.rows[query("mge", uncertain=1)(pool, 12, seed=3)].tolist()
    assert rows.tolist() != choose(settings("mge"), pool, 12, seed=3).tolist()


def test_a_budget_outside_1_to_n_is_refused() -> None:
    for budget in (0, 61):
        with pytest.raises(
            ValueError,
            match=rf"query for {budget} images got 60 images without labels; expected 1 to 60 images\. Lower",
        ):
            choose(settings("mge"), candidates(), budget, seed=0)
