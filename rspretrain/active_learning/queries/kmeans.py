"""K-means: the image nearest to each of b cluster centres of all candidates. Diversity without uncertainty."""

import warnings
from typing import final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from rspretrain.active_learning.queries.base import Query
from rspretrain.active_learning.queries.candidates import Candidates, Positions


@final
class KMeansQuery(Query):
    """The image nearest to each cluster centre."""

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Positions:
        """The image nearest to the mean of each cluster; if clusters are empty, also the nearest of the others."""
        x = candidates.features.numpy()
        cluster = clusters(candidates.features, budget, seed)
        distance = np.empty(len(x), dtype=np.float32)
        for number in np.unique(cluster):
            inside = cluster == number
            distance[inside] = np.linalg.norm(x[inside] - x[inside].mean(axis=0), axis=1)
        nearest = np.argsort(distance, kind="stable")
        _, best = np.unique(cluster[nearest], return_index=True)
        others = np.setdiff1d(np.arange(len(x)), best)
        chosen: Positions = nearest[np.concatenate([np.sort(best), others])[:budget]]
        return chosen


def clusters(features: Tensor, num: int, seed: int) -> NDArray[np.int32]:
    """[N] the cluster of each image, 0 to num-1: Lloyd's iterations from one k-means++ start.

    Some clusters are empty if features [N D] have fewer different rows.
    """
    from sklearn.cluster import KMeans  # takes 1.9 s; other queries and pretraining do not need it
    from sklearn.exceptions import ConvergenceWarning

    # Threads add up their parts of a mean in the order in which they end: one thread, the same centres every time.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        kmeans = KMeans(num, init="k-means++", n_init=1, random_state=seed % 2**32)
        numbers: NDArray[np.int32] = kmeans.fit(features.numpy()).labels_
    return numbers
