"""Random numbers are functions of sample and purpose, uniform, independent, and bit-equal to rng.py."""

import numpy as np
import pytest
import torch

from rspretrain.rng import GOLDEN, MASK, mix, sample_seeds
from rspretrain.rng_torch import _mix_tensor, normal, purpose_id, uniform

SEEDS = torch.from_numpy(sample_seeds(0, 0, np.arange(20_000)))


def test_a_number_depends_only_on_its_sample_and_purpose() -> None:
    whole, pick = uniform(SEEDS, "view0/crop", (3,)), torch.tensor([5, 19_999, 0])
    assert torch.equal(uniform(SEEDS[pick], "view0/crop", (3,)), whole[pick])
    assert not torch.equal(uniform(SEEDS, "view1/crop", (3,)), whole)


def test_more_numbers_begin_with_the_same() -> None:
    assert torch.equal(uniform(SEEDS, "a", (5,))[:, :2], uniform(SEEDS, "a", (2,)))
    assert torch.equal(uniform(SEEDS, "a"), uniform(SEEDS, "a", (1,))[:, 0])


def test_mixer_is_that_of_rng() -> None:
    words = [0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0]
    signed = torch.tensor([(w + GOLDEN & MASK) - (1 << 64) * ((w + GOLDEN & MASK) >> 63) for w in words])
    assert [int(z) & MASK for z in _mix_tensor(signed)] == [mix(w) for w in words]


def test_values_are_pinned() -> None:
    seeds = torch.from_numpy(sample_seeds(1, 2, np.arange(2)))
    assert purpose_id("view0/crop") == 3_535_058_899
    assert [float(u) * 2**24 for u in uniform(seeds, "view0/crop")] == [5_752_169, 11_853_307]


def test_uniform_in_mean_variance_tails_and_bins() -> None:
    u = uniform(SEEDS, "a", (4,))
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=0.005)
    assert u.var() == pytest.approx(1 / 12, abs=0.002)
    counts = torch.histc(u, 50, 0, 1)
    chi2 = ((counts - 1600) ** 2 / 1600).sum()
    assert 20 < chi2 < 95  # 49 degrees of freedom: 0.01 % to 99.99 %


def test_neighbours_purposes_and_counters_are_uncorrelated() -> None:
    u = uniform(SEEDS, "a", (3,))
    columns = torch.stack([u[:-1, 0], u[1:, 0], u[:-1, 1], u[:-1, 2], uniform(SEEDS, "b")[:-1]])
    off = torch.corrcoef(columns) - torch.eye(5)
    assert off.abs().max() < 0.03


def test_normal_moments_and_finiteness() -> None:
    z = normal(SEEDS, "a", (5,))
    assert z.isfinite().all()
    assert z.mean() == pytest.approx(0.0, abs=0.01)
    assert z.std() == pytest.approx(1.0, abs=0.01)
    assert (z.abs() > 1.96).float().mean() == pytest.approx(0.05, abs=0.005)
    assert torch.equal(normal(SEEDS[[7]], "a", (5,))[0], z[7])
