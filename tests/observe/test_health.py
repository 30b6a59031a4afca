import math

import pytest
import torch

from rspretrain.observe.health import (
    alignment,
    center_entropy,
    effective_rank,
    feature_std,
    mean_cosine,
    target_entropy,
    target_information,
    uniformity,
)


def test_isotropic_features_are_healthy() -> None:
    x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    assert feature_std(x).item() == pytest.approx(1.0, abs=0.01)
    assert mean_cosine(x).item() == pytest.approx(0.0, abs=0.01)
    assert effective_rank(x).item() == pytest.approx(64, rel=0.01)


def test_collapsed_features_are_detected_at_any_length() -> None:
    x = torch.randn(1, 32).expand(16, 32) * torch.rand(16, 1).add(0.5)
    assert feature_std(x).item() == pytest.approx(0.0, abs=1e-5)
    assert mean_cosine(x).item() == pytest.approx(1.0, abs=1e-5)
    assert effective_rank(x).item() == pytest.approx(1.0, abs=1e-3)  # lengths differ along one line
    assert effective_rank(x[:1].expand(16, 32)).item() == 0.0


def test_rounding_errors_of_equal_features_have_rank_zero() -> None:
    x = torch.full((64, 128), 0.3) * (1 + 1e-8 * torch.randn(64, 128))
    assert effective_rank(x).item() == 0.0


def test_axis_aligned_features_in_closed_form() -> None:
    x = torch.cat([torch.eye(4), -torch.eye(4)])  # centred, all four singular values sqrt(2)
    assert effective_rank(x).item() == pytest.approx(4.0)
    assert mean_cosine(x).item() == pytest.approx(-1 / 7)  # 8 of 56 ordered pairs are opposite
    assert feature_std(x).item() == pytest.approx(math.sqrt(1 / 4) * 2)


def test_effective_rank_is_the_entropy_of_the_singular_values() -> None:
    for shape in [(20, 50), (50, 20)]:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.1, 3, shape[1])
        values = torch.linalg.svdvals(x.double() - x.double().mean(0))
        share = values / values.sum()
        expected = torch.exp(-torch.xlogy(share, share).sum()).item()
        assert effective_rank(x).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("measure", [feature_std, mean_cosine, effective_rank])
def test_measures_are_detached_float32_scalars_and_nan_for_nan(measure) -> None:
    x = torch.randn(8, 4, dtype=torch.bfloat16, requires_grad=True)
    value = measure(x)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert not value.requires_grad
    assert measure(torch.full((8, 4), torch.nan)).isnan()
    assert measure(x[:1]).item() == 0.0  # by definition for a single sample


def test_alignment_is_two_minus_two_cosines_and_zero_for_equal_views() -> None:
    a, b = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
    expected = 2 - 2 * torch.nn.functional.cosine_similarity(a, b).mean()
    assert alignment(a, 3 * b).item() == pytest.approx(expected.item(), abs=1e-6)
    assert alignment(a, 7 * a).item() < 1e-12
    assert alignment(a, -a).item() == pytest.approx(4.0)


def test_uniformity_equals_a_loop_over_pairs_and_its_closed_forms() -> None:
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(x, dim=1)
    expected = torch.pdist(unit).square().mul(-2).exp().mean().log()  # the code in Wang & Isola's paper
    assert uniformity(5 * x).item() == pytest.approx(expected.item(), abs=1e-5)
    assert uniformity(x[:1].expand(8, 8)).item() == pytest.approx(0.0, abs=1e-5)
    assert uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])).item() == pytest.approx(-8.0)
    assert uniformity(x[:1]).isnan()


def test_both_collapses_have_no_target_information_and_differ_in_entropy() -> None:
    one = torch.eye(8)[:1].expand(32, 8)
    uniform = torch.full((32, 8), 1 / 8)
    one_hot = torch.eye(8).repeat(4, 1)
    assert [target_information(t).item() for t in (one, uniform)] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert target_information(one_hot).item() == pytest.approx(math.log(8))
    assert [target_entropy(t).item() for t in (one, uniform, one_hot)] == pytest.approx([0.0, 1.0, 1.0])


def test_center_entropy_is_the_entropy_of_the_softmax() -> None:
    center = torch.tensor([0.3, -0.1, 0.0, 0.2])
    p = torch.softmax(center / 0.1, dim=0)
    assert center_entropy(center, 0.1).item() == pytest.approx((-(p * p.log()).sum() / math.log(4)).item())
    assert center_entropy(torch.zeros(64), 0.04).item() == pytest.approx(1.0)
    assert center_entropy(torch.tensor([100.0, 0.0]), 0.04).item() == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_view_and_target_measures_of_nonfinite_input_are_nan(bad: float) -> None:
    x = torch.full((4, 3), bad)
    targets = torch.full((4, 3), math.nan)
    for value in (alignment(x, x), uniformity(x), target_information(targets), target_entropy(targets)):
        assert value.isnan()
