import numpy as np
import pytest
import torch
from torch import Tensor

from rspretrain.evaluation import bootstrap
from rspretrain.evaluation.bootstrap import drawn, intervals
from rspretrain.evaluation.metrics import Scores, multi_label_scores, single_label_scores


def several(num: int = 60, num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores with ties that know something, and targets with empty rows and rare classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(num, num_classes, generator=generator) < torch.tensor([0.5, 0.3, 0.1, 0.02])[:num_classes]
    p = (0.6 * torch.rand(num, num_classes, generator=generator) + 0.4 * y) * 20
    return p.round() / 20, y


def one(num: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (num,), generator=generator)
    return (torch.randn(num, 5, generator=generator) + torch.nn.functional.one_hot(y, 5)).softmax(1), y


def scores(p: Tensor, y: Tensor) -> Scores:
    return multi_label_scores(p, y) if y.ndim == 2 else single_label_scores(p, y)


@pytest.mark.parametrize("data", [several(), one()], ids=["several", "one"])
def test_every_resample_has_the_figures_of_its_images(data: tuple[Tensor, Tensor]) -> None:
    p, y = data
    figures = bootstrap._MultiLabel(p, y) if y.ndim == 2 else bootstrap._SingleLabel(p, y)
    weights = drawn(len(y), 7, range(12))
    values = figures(weights)
    for r, weight in enumerate(weights.long()):
        images = torch.arange(len(y)).repeat_interleave(weight)
        expected = vars(scores(p[images], y[images]))
        for name, value in values.items():
            assert value[r].tolist() == pytest.approx(expected[name], abs=1e-5), name
    left_out = expected.keys() - values.keys()
    assert left_out <= {"support_per_class", "confusion", "num_without_positives", "num_without_samples"}


def test_draws_are_uniform_and_follow_the_seed() -> None:
    weights = drawn(50, 0, range(400))
    assert (weights.sum(1) == 50).all()
    assert weights.mean().item() == 1.0
    assert weights.var().item() == pytest.approx(1 - 1 / 50, abs=0.03)  # binomial(50, 1/50)
    assert weights.mean(0).sub(1).abs().max() < 5 / np.sqrt(400)
    assert torch.equal(drawn(50, 0, range(7, 9)), weights[7:9])
    assert not torch.equal(drawn(50, 1, range(7, 9)), weights[7:9])


def test_intervals_do_not_depend_on_how_many_resamples_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = intervals(*several(), seed=3, resamples=50)
    assert len(whole["ap_per_class"]) == 4
    monkeypatch.setattr(bootstrap, "_ELEMENTS", 60 * 4 * 7)
    assert intervals(*several(), seed=3, resamples=50) == whole
    assert intervals(*several(), seed=4, resamples=50) != whole


def test_an_interval_has_the_width_of_theory() -> None:
    p, y = one(400)
    top1 = single_label_scores(p, y).top1
    interval = intervals(p, y, seed=0, resamples=2000)["top1"]
    half = 1.96 * np.sqrt(top1 * (1 - top1) / 400)
    assert interval.low == pytest.approx(top1 - half, abs=0.006)
    assert interval.high == pytest.approx(top1 + half, abs=0.006)
    narrow = intervals(p, y, seed=0, resamples=2000, level=0.5)["top1"]
    assert interval.low < narrow.low < top1 < narrow.high < interval.high


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scores from -1 to -1; expected probabilities in \[0, 1\]"):
        intervals(torch.full((2, 2), -1.0), torch.eye(2).bool(), seed=0)
