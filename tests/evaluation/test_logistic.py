import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from rspretrain.evaluation.logistic import LogisticPath


def correlated_features(num: int = 300, width: int = 40) -> tuple[Tensor, Tensor]:
    """Features like those of a network: a few latent factors, non-negative, one dead dimension."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(num, 8, generator=generator)
    noise = 0.2 * torch.randn(num, width, generator=generator)
    x = torch.relu(causes @ torch.randn(8, width, generator=generator) + noise + 1)
    x[:, 7] = 0.5
    return x, causes


def standardised(x: Tensor) -> np.ndarray:
    std = x.double().std(0, correction=0)
    return ((x.double() - x.double().mean(0)) / std.where(std > 1e-9, 1.0)).numpy()


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_multi_label_equals_scikit_learns_one_vs_rest(c: float) -> None:
    x, causes = correlated_features()
    y = causes[:, :3] > torch.tensor([0.0, 1.0, -1.0])
    ours = LogisticPath(x, y, 3).fit(c)
    for k in range(3):
        reference = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(standardised(x), y[:, k].numpy())
        np.testing.assert_allclose(ours.weight[:, k], reference.coef_[0], atol=2e-4)
        np.testing.assert_allclose(ours.bias[k], reference.intercept_[0], atol=2e-4)


@pytest.mark.parametrize("c", [0.01, 1.0])
def test_single_label_equals_scikit_learns_multinomial(c: float) -> None:
    x, causes = correlated_features()
    y = causes[:, :4].argmax(1)
    reference = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(standardised(x), y.numpy())
    ours = LogisticPath(x, y, 4).fit(c).probabilities(x)
    np.testing.assert_allclose(ours, reference.predict_proba(standardised(x)), atol=1e-4)


def test_a_class_without_samples_gets_low_probabilities() -> None:
    x, causes = correlated_features()
    y = torch.stack([causes[:, 0] > 0, torch.zeros(300, dtype=torch.bool)], dim=1)
    assert LogisticPath(x, y, 2).fit(1.0).probabilities(x)[:, 1].max() < 0.05
    assert LogisticPath(x, (causes[:, 0] > 0).long(), 3).fit(1.0).probabilities(x)[:, 2].max() < 0.05


def test_fits_do_not_depend_on_earlier_fits() -> None:
    x, causes = correlated_features()
    path = LogisticPath(x, causes[:, :3] > 0, 3)
    first = path.fit(1.0).weight
    path.fit(0.1)
    assert torch.equal(path.fit(1.0).weight, first)


def test_invalid_features_are_refused() -> None:
    x, causes = correlated_features()
    x[3, 5] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinite features for 1 of 300 samples; expected finite ones\. Che"):
        LogisticPath(x, causes[:, :3] > 0, 3)
    with pytest.raises(ValueError, match=r"features of shape \(300, 40\) for 299 samples; expected \[N D\]"):
        LogisticPath(x, causes[1:, :3] > 0, 3)
