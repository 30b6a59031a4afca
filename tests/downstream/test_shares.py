import numpy as np
import pytest
import torch
from gloo import run_ranks

from rspretrain import world
from rspretrain.downstream.shares import gather_samples, share


def test_alone_the_share_is_everything_and_order_is_that_of_rows() -> None:
    rows, (values,) = gather_samples(share(np.array([7, 2, 5])), torch.tensor([[7.0], [2.0], [5.0]]))
    assert rows.tolist() == [2, 5, 7]
    assert values.flatten().tolist() == [2.0, 5.0, 7.0]


def gathered() -> list[tuple[list[int], list[float], list[bool]]]:
    results = []
    for rows_of_rank in ([[9, 1, 4], [6]], [[], [4, 9, 6, 1]]):
        rows = np.array(rows_of_rank[world.rank()], dtype=np.int64)
        values = torch.from_numpy(rows)
        every, (halves, odd) = gather_samples(rows, values / 2, values % 2 == 1)
        results.append((every.tolist(), halves.tolist(), odd.tolist()))
    return results


def test_who_had_which_sample_does_not_matter() -> None:
    expected = ([1, 4, 6, 9], [0.5, 2.0, 3.0, 4.5], [True, False, False, True])
    assert run_ranks(2, gathered) == [[expected, expected]] * 2


def test_padding_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"rows \[4\] more than once from 1 ranks; expected every sample once\. Give the ranks"
    ):
        gather_samples(np.array([4, 1, 4]), torch.zeros(3))
    with pytest.raises(ValueError, match=r"3 rows for \[2\] values; expected one value a row\. Cut what a sampler"):
        gather_samples(np.arange(3), torch.zeros(2))
