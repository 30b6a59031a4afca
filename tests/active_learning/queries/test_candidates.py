import numpy as np
import pytest
import torch

from rspretrain.active_learning.queries.candidates import gather_candidates, largest_first


def test_candidates_are_sorted_by_row() -> None:
    rows, known = np.array([9, 4, 7, 1]), np.array([False, True, False, True])
    x = torch.tensor(rows).float()[:, None]
    ours = gather_candidates(rows, x, x / 10, known)
    assert ours.rows.tolist() == [7, 9]
    assert ours.features.flatten().tolist() == [7.0, 9.0]
    torch.testing.assert_close(ours.probabilities, ours.features / 10)
    assert ours.labelled.flatten().tolist() == [1.0, 4.0]
    assert len(ours) == 2


def test_residuals_use_the_predicted_labels() -> None:
    p = torch.tensor([[0.5, 0.2, 0.9], [0.3, 0.3, 0.3]])
    none, x = np.zeros(2, dtype=bool), torch.ones(2, 1)
    several = gather_candidates(np.arange(2), x, p, none).residuals()
    torch.testing.assert_close(several, torch.tensor([[-0.5, 0.2, -0.1], [0.3, 0.3, 0.3]]))
    torch.testing.assert_close(several.abs(), torch.minimum(p, 1 - p))
    one = gather_candidates(np.arange(2), x, p, none, multi=False).residuals()
    torch.testing.assert_close(one, torch.tensor([[0.5, 0.2, -0.1], [-0.7, 0.3, 0.3]]))


def test_equal_values_are_in_the_order_of_rows() -> None:
    assert largest_first(torch.tensor([1.0, 3.0, 1.0, 3.0])).tolist() == [1, 3, 0, 2]


def test_values_of_a_diverged_model_are_refused() -> None:
    x = torch.ones(3, 2)
    x[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinite .* for 1 of 3 images; expected finite values\. Fine-t"):
        gather_candidates(np.arange(3), x, torch.ones(3, 2), np.zeros(3, dtype=bool))
