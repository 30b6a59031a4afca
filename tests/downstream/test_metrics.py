import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, f1_score

from rspretrain.downstream.metrics import multi_label_scores, single_label_scores


@pytest.mark.filterwarnings("ignore:No positive class found:UserWarning")
@pytest.mark.parametrize("ties", [False, True])
def test_several_labels_equal_scikit_learn(ties: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(200, 6, generator=generator)
    p = (p * 5).round() / 5 if ties else p
    y = torch.rand(200, 6, generator=generator) < 0.3
    y[:, 4] = False
    ours = multi_label_scores(p, y)
    hard = (p > 0.5).numpy()
    np.testing.assert_allclose(ours.ap_per_class, average_precision_score(y, p, average=None), atol=1e-6)
    assert ours.ap_macro == pytest.approx(average_precision_score(y, p, average="macro"), abs=1e-6)
    assert ours.ap_micro == pytest.approx(average_precision_score(y, p, average="micro"), abs=1e-6)
    assert ours.f1_macro == pytest.approx(f1_score(y, hard, average="macro", zero_division=0), abs=1e-6)
    assert ours.f1_micro == pytest.approx(f1_score(y, hard, average="micro", zero_division=0), abs=1e-6)
    assert ours.num_without_positives == 1
    assert ours.ap_per_class[4] == 0.0


def test_one_label_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(200, 5, generator=generator).softmax(1)
    y = torch.randint(4, (200,), generator=generator)  # class 4 does not occur, but is answered
    ours = single_label_scores(p, y)
    assert ours.top1 == pytest.approx(accuracy_score(y, p.argmax(1)))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert ours.average_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert ours.num_without_samples == 1
    assert ours.recall_per_class[4] == 0.0


def test_perfect_scores() -> None:
    y = torch.eye(4).bool()
    ours = multi_label_scores(y.float(), y)
    assert (ours.ap_macro, ours.ap_micro, ours.f1_macro, ours.f1_micro) == (1.0, 1.0, 1.0, 1.0)
    assert single_label_scores(torch.eye(4), torch.arange(4)).top1 == 1.0


def test_scores_that_are_no_probabilities_are_refused() -> None:
    y = torch.eye(2).bool()
    with pytest.raises(ValueError, match=r"scores from -1 to 1; expected probabilities in \[0, 1\]\. Apply a sigmoid"):
        multi_label_scores(torch.tensor([[-1.0, 1.0], [0.0, 1.0]]), y)
    with pytest.raises(ValueError, match=r"scores from nan to nan.*look for NaN in the features"):
        multi_label_scores(torch.full((2, 2), torch.nan), y)
    with pytest.raises(ValueError, match=r"scores of shape \(0, 2\).*N >= 1 samples"):
        single_label_scores(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
