"""K-means alone: the image nearest to each of b centres of all candidates. Diversity without uncertainty."""

import warnings
from typing import final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor

from rspretrain.active_learning.queries.base import Query
from rspretrain.active_learning.queries.candidates import Candidates, Places


@final
class KMeansQuery(Query):
    """The image nearest to each cluster centre."""

    def __call__(self, candidates: Candidates, budget: int, seed: int) -> Places:
        """The image nearest to the mean of each cluster, then (where clusters are empty) the nearest of the others."""
        x = candidates.features.numpy()
        cluster = clusters(candidates.features, budget, seed)
        distance = np.empty(len(x), dtype=np.float32)
        for number in np.unique(cluster):
            inside = cluster == number
            distance[inside] = np.linalg.norm(x[inside] - x[inside].mean(axis=0), axis=1)
        nearest = np.argsort(distance, kind="stable")
        _, best = np.unique(cluster[nearest], return_index=True)
        others = np.setdiff1d(np.arange(len(x)), best)
        places: Places = nearest[np.concatenate([np.sort(best), others])[:budget]]
        return places


def clusters(features: Tensor, num: int, seed: int) -> NDArray[np.int32]:
    """[N] the number of each image's cluster in 0..num-1: Lloyd's iterations from one k-means++ start.

    Some numbers do not occur where features [N D] have fewer different rows.
    """
    from sklearn.cluster import KMeans  # takes 1.9 s; other queries and pretraining need none of it
    from sklearn.exceptions import ConvergenceWarning

    # Threads add up their parts of a mean in the order in which they end: one thread, the same centres every time.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        kmeans = KMeans(num, init="k-means++", n_init=1, random_state=seed % 2**32)
        numbers: NDArray[np.int32] = kmeans.fit(features.numpy()).labels_
    return numbers
