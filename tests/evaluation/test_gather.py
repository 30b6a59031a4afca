import numpy as np
import pytest
import torch
from gloo import run_ranks
from torch import Tensor

from rspretrain import world
from rspretrain.evaluation.gather import gather_samples, local_rows


def test_a_single_process_has_all_rows_and_results_are_sorted() -> None:
    rows, (values,) = gather_samples(local_rows(np.array([7, 2, 5])), torch.tensor([[7.0], [2.0], [5.0]]))
    assert rows.tolist() == [2, 5, 7]
    assert values.flatten().tolist() == [2.0, 5.0, 7.0]


def scored() -> tuple[Tensor, Tensor]:
    """Probabilities and targets of eleven images."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(11, 4, generator=generator), torch.rand(11, 4, generator=generator) < 0.3


def gathered() -> tuple[list[tuple[list[int], list[float], list[bool]]], int, tuple[Tensor, ...]]:
    results = []
    for rows_of_rank in ([[9, 1, 4], [6]], [[], [4, 9, 6, 1]]):
        rows = np.array(rows_of_rank[world.rank()], dtype=np.int64)
        values = torch.from_numpy(rows)
        every, (halves, odd) = gather_samples(rows, values / 2, values % 2 == 1)
        results.append((every.tolist(), halves.tolist(), odd.tolist()))
    mine = local_rows(np.arange(11))
    return results, len(mine), gather_samples(mine, *(values[mine] for values in scored()))[1]


def test_the_result_does_not_depend_on_the_assignment_to_ranks() -> None:
    from rspretrain.evaluation.metrics import multi_label_scores  # not at the top: saves the ranks 3 s of torchmetrics

    expected = ([1, 4, 6, 9], [0.5, 2.0, 3.0, 4.5], [True, False, False, True])
    for (results, count, values), num_rows in zip(run_ranks(2, gathered), (6, 5), strict=True):
        assert results == [expected, expected]
        assert count == num_rows
        assert multi_label_scores(*values) == multi_label_scores(*scored())


def test_padding_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"rows \[4\] more than once from 1 ranks; expected every sample once\. Give the ranks"
    ):
        gather_samples(np.array([4, 1, 4]), torch.zeros(3))
    with pytest.raises(ValueError, match=r"3 rows for \[2\] values; expected one value per row\. Remove the sampler's"):
        gather_samples(np.arange(3), torch.zeros(2))
