"""Properties of every query function (docs/methods.md, Label-budget loop)."""

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
def test_so_many_different_rows_of_the_pool(name: str, multi: bool, budget: int) -> None:
    pool = candidates(multi=multi)
    rows = choose(settings(name), pool, budget, seed=3)
    assert rows.shape == (budget,)
    assert len(set(rows)) == budget
    assert set(rows) <= set(pool.rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_choice_follows_candidates_and_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (scikit-learn's default)
    first = choose(settings(name), candidates(), 9, seed=3).tolist()
    assert choose(settings(name), candidates(), 9, seed=3).tolist() == first
    others = [choose(settings(name), candidates(), 9, seed=seed).tolist() for seed in range(4, 9)]
    assert any(rows != first for rows in others) == (name not in ("entropy", "coreset"))


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_all_alike_are_taken_once_each(name: str) -> None:
    alike = Candidates(np.arange(5, 12), torch.ones(7, 3), torch.full((7, 2), 0.5), torch.ones(2, 3))
    assert sorted(choose(settings(name), alike, 7, seed=0)) == list(range(5, 12))


def chosen_of_rank() -> dict[str, list[int]]:
    rows, x, p, labelled = table()
    order = np.random.default_rng(0).permutation(len(rows))
    mine = order[41:] if world.rank() else order[:41]  # unequal shares in disorder, labelled images in both
    pool = gather_candidates(rows[mine], x[mine], p[mine], labelled[mine])
    chosen = {name: choose(settings(name), pool, 9, seed=3).tolist() for name in NAMES}
    return chosen | {"of the first rank": choose(settings("random"), pool, 9, seed=world.rank()).tolist()}


def test_two_ranks_choose_the_images_of_one_process() -> None:
    alone = {name: choose(settings(name), candidates(), 9, seed=3).tolist() for name in NAMES}
    alone["of the first rank"] = choose(settings("random"), candidates(), 9, seed=0).tolist()
    assert run_ranks(2, chosen_of_rank) == [alone, alone]


def test_how_many_uncertain_images_are_clustered_is_a_setting() -> None:
    pool = candidates()
    rows = choose(settings("mge", uncertain=1), pool, 12, seed=3)
    assert rows.tolist() == pool.rows[query("mge", uncertain=1)(pool, 12, seed=3)].tolist()
    assert rows.tolist() != choose(settings("mge"), pool, 12, seed=3).tolist()


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    for budget in (0, 61):
        with pytest.raises(
            ValueError, match=rf"query for {budget} images got 60 without labels; expected 1 to 60\. Lower"
        ):
            choose(settings("mge"), candidates(), budget, seed=0)
