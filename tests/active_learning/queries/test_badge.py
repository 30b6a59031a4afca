import numpy as np
import pytest
import torch

from active_learning.queries.cases import candidates, query
from rspretrain.active_learning.queries import badge
from rspretrain.active_learning.queries.candidates import Candidates, Positions
from rspretrain.rng import mix


def materialised(pool: Candidates) -> torch.Tensor:
    """[N K*D] float64 gradient embeddings, written out."""
    return torch.einsum("nk,nd->nkd", pool.residuals().double(), pool.features.double()).flatten(1)


@pytest.mark.parametrize("multi", [True, False])
def test_distances_are_those_of_the_embeddings_written_out(multi: bool) -> None:
    pool = candidates(multi=multi)
    g = materialised(pool)
    gradients = badge.Gradients(pool)
    torch.testing.assert_close(gradients.squares, g.square().sum(1))
    for index in (0, 17, 59):
        torch.testing.assert_close(gradients.distances(index), (g - g[index]).square().sum(1), atol=1e-10, rtol=1e-9)


def reference(pool: Candidates, budget: int, seed: int) -> Positions:
    """k-means++ as in JordanAsh/badge on written-out embeddings, with this package's draws."""
    g = materialised(pool)
    chosen = [int(g.norm(dim=1).argmax())]
    while len(chosen) < budget:
        distance = torch.cdist(g, g[chosen], compute_mode="donot_use_mm_for_euclid_dist").amin(1).square()
        chances = (distance / distance.sum()).numpy()
        draw = mix(seed, badge._PURPOSE, len(chosen)) / 2**64
        chosen.append(int(np.flatnonzero(np.cumsum(chances) > draw)[0]))
    return np.array(chosen)


def test_a_choice_is_that_of_a_slow_reference() -> None:
    for seed in range(5):
        pool = candidates(seed=seed)
        assert query("badge")(pool, 15, seed).tolist() == reference(pool, 15, seed).tolist()


def test_far_embeddings_are_drawn_more_often() -> None:
    # One image of a large gradient, one unlike it, eight like it: squared distances 1 + 0.81 against 0.01.
    h = torch.tensor([[1.0, 0.0]] + [[0.9, 0.0]] * 8 + [[0.0, 0.9]])
    pool = Candidates(np.arange(10), h, torch.full((10, 1), 0.5), h[:0])
    second = [int(query("badge")(pool, 2, seed)[1]) for seed in range(300)]
    assert second.count(9) / 300 == pytest.approx(1.81 / (1.81 + 8 * 0.01), abs=0.05)
