import numpy as np
import torch

from active_learning.queries.cases import candidates, query
from rspretrain.active_learning.queries import coreset
from rspretrain.active_learning.queries.candidates import Candidates


def reference(pool: Candidates, budget: int) -> list[int]:
    """Algorithm 1, with all distances computed in every step."""
    x, centres = pool.features.double().numpy(), list(pool.labelled.double().numpy())
    chosen: list[int] = []
    while len(chosen) < budget:
        nearest = [min(np.linalg.norm(each - centre) for centre in centres) for each in x]
        chosen.append(int(np.argmax(nearest)))
        centres.append(x[chosen[-1]])
    return chosen


def test_a_choice_is_that_of_a_slow_reference() -> None:
    for seed in range(3):
        pool = candidates(seed=seed)
        assert query("coreset")(pool, 20, seed=0).tolist() == reference(pool, 20)


def test_chunks_change_nothing(monkeypatch) -> None:
    whole = query("coreset")(candidates(), 20, seed=0)
    monkeypatch.setattr(coreset, "_CHUNK", 7)
    assert np.array_equal(query("coreset")(candidates(), 20, seed=0), whole)


def test_without_labels_the_seed_draws_the_first_and_the_next_is_the_farthest() -> None:
    pool = candidates(labelled=0)
    firsts = set()
    for seed in range(30):
        first, second = query("coreset")(pool, 2, seed)
        firsts.add(int(first))
        assert second == (pool.features - pool.features[first]).norm(dim=1).argmax()
    assert len(firsts) > 15


def test_equally_far_images_come_in_the_order_of_rows() -> None:
    x = torch.tensor([[0.0], [1.0], [1.0], [-1.0]])
    pool = Candidates(np.arange(4), x, torch.ones(4, 2), torch.zeros(1, 1))
    assert query("coreset")(pool, 4, seed=0).tolist() == [1, 3, 0, 2]
