import numpy as np
import pytest
import torch
from torch import Tensor

from rspretrain.evaluation import bootstrap
from rspretrain.evaluation.bootstrap import confidence_intervals, resample_weights
from rspretrain.evaluation.metrics import Scores, multi_label_scores, single_label_scores


def multi_label(num: int = 60, num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Informative scores with ties, and targets with empty rows and rare classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(num, num_classes, generator=generator) < torch.tensor([0.5, 0.3, 0.1, 0.02])[:num_classes]
    p = (0.6 * torch.rand(num, num_classes, generator=generator) + 0.4 * y) * 20
    return p.round() / 20, y


def single_label(num: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (num,), generator=generator)
    return (torch.randn(num, 5, generator=generator) + torch.nn.functional.one_hot(y, 5)).softmax(1), y


def scores(p: Tensor, y: Tensor) -> Scores:
    return multi_label_scores(p, y) if y.ndim == 2 else single_label_scores(p, y)


@pytest.mark.parametrize("data", [multi_label(), single_label()], ids=["multi_label", "single_label"])
def test_each_resample_has_the_metrics_of_its_images(data: tuple[Tensor, Tensor]) -> None:
    p, y = data
    metrics = bootstrap._MultiLabel(p, y) if y.ndim == 2 else bootstrap._SingleLabel(p, y)
    weights = resample_weights(len(y), 7, range(12))
    values = metrics(weights)
    for r, weight in enumerate(weights.long()):
        images = torch.arange(len(y)).repeat_interleave(weight)
        expected = vars(scores(p[images], y[images]))
        for name, value in values.items():
            assert value[r].tolist() == pytest.approx(expected[name], abs=1e-5), name
    left_out = expected.keys() - values.keys()
    assert left_out <= {"support_per_class", "confusion", "num_without_positives", "num_without_samples"}


def test_draws_are_uniform_and_depend_on_the_seed() -> None:
    weights = resample_weights(50, 0, range(400))
    assert (weights.sum(1) == 50).all()
    assert weights.mean().item() == 1.0
    assert weights.var().item() == pytest.approx(1 - 1 / 50, abs=0.03)  # binomial(50, 1/50)
    assert weights.mean(0).sub(1).abs().max() < 5 / np.sqrt(400)
    assert torch.equal(resample_weights(50, 0, range(7, 9)), weights[7:9])
    assert not torch.equal(resample_weights(50, 1, range(7, 9)), weights[7:9])


def test_intervals_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = confidence_intervals(*multi_label(), seed=3, resamples=50)
    assert len(whole["ap_per_class"]) == 4
    monkeypatch.setattr(bootstrap, "_MAX_ELEMENTS", 60 * 4 * 7)
    assert confidence_intervals(*multi_label(), seed=3, resamples=50) == whole
    assert confidence_intervals(*multi_label(), seed=4, resamples=50) != whole


def test_interval_width_agrees_with_theory() -> None:
    p, y = single_label(400)
    top1 = single_label_scores(p, y).top1
    interval = confidence_intervals(p, y, seed=0, resamples=2000)["top1"]
    half = 1.96 * np.sqrt(top1 * (1 - top1) / 400)
    assert interval.low == pytest.approx(top1 - half, abs=0.006)
    assert interval.high == pytest.approx(top1 + half, abs=0.006)
    narrow = confidence_intervals(p, y, seed=0, resamples=2000, level=0.5)["top1"]
    assert interval.low < narrow.low < top1 < narrow.high < interval.high


def test_scores_outside_0_1_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores from -1 to -1; expected probabilities in \[0, 1\]"):
        confidence_intervals(torch.full((2, 2), -1.0), torch.eye(2).bool(), seed=0)
