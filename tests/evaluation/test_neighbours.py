import math

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

from rspretrain.evaluation.neighbours import CHUNK, TEMPERATURE, knn_probabilities


def test_votes_in_closed_form() -> None:
    train_x = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    train_y = torch.tensor([[True, False], [True, True], [False, True]])
    (scores,) = knn_probabilities(train_x, train_y, torch.tensor([[3.0, 0.0]]), k=2)
    far = math.exp(-1 / TEMPERATURE)  # cosines 1 and 0; lengths do not matter
    torch.testing.assert_close(scores, torch.tensor([1.0, far / (1 + far)]))


def test_equals_scikit_learn_with_the_same_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    train_x, test_x = torch.randn(300, 16, generator=generator), torch.randn(CHUNK + 76, 16, generator=generator)
    target = torch.randint(5, (300,), generator=generator)
    reference = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    ).fit(train_x.numpy(), target.numpy())
    ours = knn_probabilities(train_x, torch.nn.functional.one_hot(target).bool(), test_x)
    expected = torch.tensor(reference.predict_proba(test_x.numpy())).float()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_fewer_samples_than_neighbours() -> None:
    scores = knn_probabilities(torch.eye(3), torch.eye(3).bool(), torch.eye(3))
    torch.testing.assert_close(scores.argmax(1), torch.arange(3))
    torch.testing.assert_close(scores.sum(1), torch.ones(3))
