"""NT-Xent against lightly, a loop written from the paper, and closed forms (docs/methods.md, NT-Xent)."""

import math

import pytest
import torch
import torch.nn.functional as F
from gloo import run_ranks
from torch import Tensor

from rspretrain import world
from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.objectives.base import worst_values
from rspretrain.objectives.contrastive import VIEW_HEALTH, Negatives, chance_level, nt_xent, view_health

torch.set_num_threads(1)


def features(num: int = 12, width: int = 16) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    z1, z2 = torch.randn(2, num, width).unbind()
    return z1, z2


def slow(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Chen et al. 2020, eq. 1, row by row."""
    z = F.normalize(torch.cat([z1, z2])).double()
    rows = []
    for i in range(len(z)):
        similarity = torch.exp(z @ z[i] / temperature)
        others = sum(similarity[k] for k in range(len(z)) if k != i)
        rows.append(-torch.log(similarity[(i + len(z1)) % len(z)] / others))
    return torch.stack(rows).mean()


def test_equals_lightly_and_the_paper() -> None:
    ensure_torchvision()
    from lightly.loss import NTXentLoss

    z1, z2 = features()
    for temperature in (0.07, 0.2, 0.5):
        ours = nt_xent(z1, z2, temperature)
        torch.testing.assert_close(ours, NTXentLoss(temperature)(z1, z2), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours.double(), slow(z1, z2, temperature), rtol=1e-6, atol=1e-6)


def test_closed_form_of_equal_orthogonal_views() -> None:
    z, temperature = torch.eye(8), 0.5
    expected = math.log(1 + 14 * math.exp(-1 / temperature))
    assert nt_xent(z, z, temperature).item() == pytest.approx(expected, rel=1e-6)
    assert nt_xent(z, z, temperature, "cross").item() == pytest.approx(math.log(1 + 7 * math.exp(-2)), rel=1e-6)


def test_chance_levels() -> None:
    z = torch.ones(200, 4)
    assert nt_xent(z, z, 0.07).item() == pytest.approx(math.log(399), rel=1e-5)
    assert nt_xent(z, z, 0.07, "cross").item() == pytest.approx(math.log(200), rel=1e-5)


def test_cross_is_the_mean_of_two_cross_entropies() -> None:
    z1, z2 = features()
    logits = F.normalize(z1) @ F.normalize(z2).T / 0.1
    expected = 0.5 * (F.cross_entropy(logits, torch.arange(12)) + F.cross_entropy(logits.T, torch.arange(12)))
    torch.testing.assert_close(nt_xent(z1, z2, 0.1, "cross"), expected)


@pytest.mark.parametrize("negatives", ["all", "cross"])
def test_order_of_samples_and_of_views_does_not_matter(negatives: Negatives) -> None:
    (z1, z2), order = features(), torch.randperm(12)
    expected = nt_xent(z1, z2, 0.1, negatives)
    torch.testing.assert_close(nt_xent(z1[order], z2[order], 0.1, negatives), expected)
    torch.testing.assert_close(nt_xent(z2, z1, 0.1, negatives), expected)


def test_float32_under_autocast() -> None:
    z1, z2 = features()
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(z1, z2, 0.07)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, nt_xent(z1, z2, 0.07))


def one_rank(negatives: Negatives) -> tuple[Tensor, list[Tensor]]:
    parts = [z.chunk(world.size())[world.rank()].requires_grad_() for z in features()]
    loss = nt_xent(*parts, 0.1, negatives)
    loss.backward()
    return loss.detach(), [part.grad for part in parts]  # type: ignore[misc]


def both_negatives() -> list[tuple[Tensor, list[Tensor]]]:
    return [one_rank("all"), one_rank("cross")]


def test_mean_over_ranks_equals_the_whole_batch_in_value_and_gradient() -> None:
    ranks = run_ranks(3, both_negatives)
    for kind, (loss, grads) in enumerate(both_negatives()):
        parts = [rank[kind] for rank in ranks]
        torch.testing.assert_close(torch.stack([part[0] for part in parts]).mean(), loss)
        for view in (0, 1):
            # The strategy averages gradients over ranks, hence the 3.
            got = torch.cat([part[1][view] for part in parts]) / 3
            torch.testing.assert_close(got, grads[view], rtol=1e-5, atol=1e-7)


def test_health_metrics_detect_collapse() -> None:
    good = view_health(*features(64, 8))
    flat = view_health(torch.ones(64, 8), torch.ones(64, 8))
    assert good["health/feature_std"] > 0.9
    assert flat["health/feature_std"] < 1e-6
    assert flat["health/positive_cosine"].item() == pytest.approx(1.0)
    assert set(good) == set(VIEW_HEALTH)
    both = worst_values([good, flat])
    assert both["health/feature_std"] == flat["health/feature_std"]
    assert both["health/mean_cosine"] == flat["health/mean_cosine"]
    assert both["health/uniformity"] == flat["health/uniformity"]


@pytest.mark.parametrize("negatives", ["all", "cross"])
def test_guessing_has_the_chance_level(negatives: Negatives) -> None:
    z = torch.ones(16, 8)  # all samples equal
    assert nt_xent(z, z, 0.1, negatives).item() == pytest.approx(chance_level(16, negatives))
