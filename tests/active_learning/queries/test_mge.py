import numpy as np
import pytest
import torch
import torch.nn.functional as F

from active_learning.queries.cases import candidates, query
from rspretrain.active_learning.queries import mge
from rspretrain.active_learning.queries.candidates import Candidates, largest_first
from rspretrain.active_learning.queries.kmeans import clusters


@pytest.mark.parametrize("multi", [True, False])
def test_magnitudes_are_autograds(multi: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.rand(20, 16, generator=generator)
    layer = torch.nn.Linear(16, 7)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(7, 16, generator=generator))
    logits = layer(h)
    p = (logits.sigmoid() if multi else logits.softmax(1)).detach()
    ours = mge.magnitudes(Candidates(np.arange(20), h, p, h[:0], multi))
    for i in range(20):
        if multi:
            loss = F.binary_cross_entropy_with_logits(layer(h[i]), (p[i] >= 0.5).float())  # the mean over classes
        else:
            loss = F.cross_entropy(layer(h[i]), p[i].argmax())
        (gradient,) = torch.autograd.grad(loss, layer.weight)
        assert ours[i].item() == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_a_sure_model_has_no_gradient() -> None:
    sure = Candidates(np.arange(2), torch.ones(2, 3), torch.tensor([[0.0, 1.0], [0.5, 0.5]]), torch.ones(0, 3))
    assert mge.magnitudes(sure).tolist() == [0.0, pytest.approx(np.sqrt(0.5 * 3) / 2)]


def test_as_many_candidates_as_picks_are_the_largest_gradients() -> None:
    pool = candidates()
    top = largest_first(mge.magnitudes(pool))
    assert query("mge", uncertain=1)(pool, 12, seed=0).tolist() == top[:12].tolist()
    assert query("mge")(pool, 1, seed=0).tolist() == top[:1].tolist()


def test_every_cluster_gives_its_largest_gradient() -> None:
    pool, size = candidates(), mge.magnitudes(candidates())
    likely = largest_first(size)[:40]
    cluster = clusters(pool.features[likely], 4, seed=5)
    expected = {max(likely[cluster == c], key=lambda index: size[index].item()) for c in range(4)}
    chosen = query("mge")(pool, 4, seed=5)
    assert set(chosen) == expected
    assert size[chosen].tolist() == sorted(size[chosen].tolist(), reverse=True)


def test_where_clusters_are_empty_the_next_largest_gradients_follow() -> None:
    h = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 2.0]] * 5)
    p = torch.linspace(0.1, 0.4, 10)[:, None].expand(10, 2)
    chosen = query("mge")(Candidates(np.arange(10), h, p, h[:0]), 4, seed=0)
    assert set(chosen[:2]) == {9, 4}  # the two clusters
    assert chosen[2:].tolist() == [8, 7]
