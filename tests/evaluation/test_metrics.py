import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    fbeta_score,
    precision_score,
    recall_score,
)

from rspretrain.evaluation.metrics import MultiLabelScores, multi_label_scores, single_label_scores


def random_scores(num: int, num_classes: int, seed: int, steps: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, in `steps` levels (ties) if given, and targets with empty rows and a class without positives."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(num, num_classes, generator=generator)
    y = torch.rand(num, num_classes, generator=generator) < 0.3
    y[:: max(2, num // 3)] = False
    y[:, seed % num_classes] = False
    return (p * steps).round() / steps if steps else p, y


def scikit_learn_averages(p: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    truth, predicted = y.numpy(), (p > 0.5).numpy()
    metrics = {f"ap_{average}": average_precision_score(truth, p, average=average) for average in ("macro", "micro")}
    for average in ("macro", "micro", "samples"):
        options = {"average": average, "zero_division": 0}
        metrics |= {
            f"precision_{average}": precision_score(truth, predicted, **options),
            f"recall_{average}": recall_score(truth, predicted, **options),
            f"f1_{average}": f1_score(truth, predicted, **options),
            f"f2_{average}": fbeta_score(truth, predicted, beta=2, **options),
        }
    return metrics


def averages(scores: MultiLabelScores) -> dict[str, float]:
    return {name: value for name, value in vars(scores).items() if isinstance(value, float)}


@pytest.mark.filterwarnings("ignore:No positive class found:UserWarning")
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 10_000), st.sampled_from([0, 1, 4]))
def test_averages_equal_scikit_learn(num: int, num_classes: int, seed: int, steps: int) -> None:
    p, y = random_scores(num, num_classes, seed, steps)
    assert averages(multi_label_scores(p, y)) == pytest.approx(scikit_learn_averages(p, y), abs=1e-6)


@pytest.mark.filterwarnings("ignore:No positive class found:UserWarning")
def test_class_scores_equal_scikit_learn_and_classes_without_positives_are_counted() -> None:
    p, y = random_scores(200, 6, seed=4)
    ours = multi_label_scores(p, y)
    np.testing.assert_allclose(ours.ap_per_class, average_precision_score(y, p, average=None), atol=1e-6)
    expected = f1_score(y.numpy(), (p > 0.5).numpy(), average=None, zero_division=0)
    np.testing.assert_allclose(ours.f1_per_class, expected, atol=1e-6)
    assert ours.support_per_class == tuple(y.sum(0).tolist())
    assert ours.num_without_positives == 1
    assert ours.ap_per_class[4] == ours.f1_per_class[4] == ours.support_per_class[4] == 0


def test_without_any_label_all_metrics_are_zero() -> None:
    p, y = random_scores(5, 3, seed=0)
    ours = multi_label_scores(p, y & False)
    assert set(averages(ours).values()) == {0.0}
    assert ours.num_without_positives == 3


def test_single_label_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(200, 5, generator=generator).softmax(1)
    y = torch.randint(4, (200,), generator=generator)  # class 4 does not occur, but is predicted
    ours = single_label_scores(p, y)
    assert ours.top1 == pytest.approx(accuracy_score(y, p.argmax(1)))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert ours.average_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert ours.num_without_samples == 1
    assert ours.recall_per_class[4] == 0.0
    assert ours.confusion == tuple(map(tuple, confusion_matrix(y, p.argmax(1), labels=range(5)).tolist()))
    assert ours.support_per_class == tuple(map(sum, ours.confusion))


def test_perfect_scores() -> None:
    y = torch.eye(4).bool()
    ours = multi_label_scores(y.float(), y)
    assert (ours.ap_macro, ours.ap_micro, ours.f1_macro, ours.f1_micro) == (1.0, 1.0, 1.0, 1.0)
    assert single_label_scores(torch.eye(4), torch.arange(4)).top1 == 1.0


def test_scores_outside_0_1_are_refused() -> None:
    y = torch.eye(2).bool()
    with pytest.raises(ValueError, match=r"scores from -1 to 1; expected probabilities in \[0, 1\]\. Apply a sigmoid"):
        multi_label_scores(torch.tensor([[-1.0, 1.0], [0.0, 1.0]]), y)
    with pytest.raises(ValueError, match=r"scores from nan to nan.*check the features for NaN"):
        multi_label_scores(torch.full((2, 2), torch.nan), y)
    with pytest.raises(ValueError, match=r"scores of shape \(0, 2\).*N >= 1 samples"):
        single_label_scores(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
