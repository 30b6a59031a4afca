import math

import pytest
import torch

from rspretrain.observe.health import effective_rank, feature_std, mean_cosine


def test_isotropic_features_are_healthy() -> None:
    x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    assert feature_std(x).item() == pytest.approx(1.0, abs=0.01)
    assert mean_cosine(x).item() == pytest.approx(0.0, abs=0.01)
    assert effective_rank(x).item() == pytest.approx(64, rel=0.01)


def test_collapsed_features_are_seen_whatever_their_lengths() -> None:
    x = torch.randn(1, 32).expand(16, 32) * torch.rand(16, 1).add(0.5)
    assert feature_std(x).item() == pytest.approx(0.0, abs=1e-5)
    assert mean_cosine(x).item() == pytest.approx(1.0, abs=1e-5)
    assert effective_rank(x).item() == pytest.approx(1.0, abs=1e-3)  # lengths differ along one line
    assert effective_rank(x[:1].expand(16, 32)).item() == 0.0


def test_rounding_of_equal_features_has_no_rank() -> None:
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
def test_measures_are_detached_float32_scalars_and_survive_a_bad_step(measure) -> None:
    x = torch.randn(8, 4, dtype=torch.bfloat16, requires_grad=True)
    value = measure(x)
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert not value.requires_grad
    assert measure(torch.full((8, 4), torch.nan)).isnan()
    assert measure(x[:1]).item() == 0.0  # a single sample says nothing
