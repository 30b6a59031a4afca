import numpy as np
import torch
from scipy.stats import entropy as scipys

from active_learning.queries.cases import candidates, query
from rspretrain.active_learning.queries.candidates import Candidates


def test_largest_entropies_are_scipys() -> None:
    for multi in (True, False):
        pool = candidates(multi=multi)
        p = pool.probabilities.numpy().astype(float)
        expected = scipys(np.stack([p, 1 - p]), axis=0).sum(1) if multi else scipys(p, axis=1)
        assert query("entropy")(pool, 9, seed=0).tolist() == np.argsort(-expected, kind="stable")[:9].tolist()


def test_certain_answers_have_none() -> None:
    p = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    assert query("entropy")(Candidates(np.arange(3), p, p, p[:0]), 3, seed=0).tolist() == [1, 0, 2]
