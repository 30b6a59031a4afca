import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info, threadpool_limits

from active_learning.queries.cases import candidates, query
from rspretrain.active_learning.queries import kmeans
from rspretrain.active_learning.queries.candidates import Candidates


def test_one_image_of_every_clump_and_the_nearest_to_its_mean() -> None:
    pool = candidates()
    chosen = query("kmeans")(pool, 4, seed=0)
    clump = pool.features.argmax(1).numpy()
    assert sorted(clump[chosen]) == [0, 1, 2, 3]
    for index in chosen:
        inside = np.flatnonzero(clump == clump[index])
        distance = (pool.features[inside] - pool.features[inside].mean(0)).norm(dim=1)
        assert inside[distance.argmin()] == index


def test_clusters_are_scikit_learns() -> None:
    x = candidates().features
    expected = KMeans(5, n_init=1, random_state=7).fit_predict(x.numpy())
    assert kmeans.clusters(x, 5, 7 + 2**40).tolist() == expected.tolist()  # seeds have 64 bits, scikit-learn's 32


def test_one_thread_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    class Watched(KMeans):
        def fit(self, x: NDArray[np.float32]) -> KMeans:
            threads.extend(pool["num_threads"] for pool in threadpool_info())
            return super().fit(x)

    monkeypatch.setattr("sklearn.cluster.KMeans", Watched)
    with threadpool_limits(2):
        kmeans.clusters(torch.rand(40, 4), 3, 0)
    assert set(threads) == {1}


def test_fewer_different_images_than_clusters() -> None:
    x = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    chosen = query("kmeans")(Candidates(np.arange(4), x, torch.ones(4, 2), x[:0]), 3, seed=0)
    assert set(chosen[:2]) == {0, 3}
    assert chosen[2] == 1
