"""What the nearest training samples say: a classifier without training, so it measures the features alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 20
TEMPERATURE = 0.07  # of the votes, as in DINO (Caron et al. 2021, appendix F) and Wu et al. 2018
CHUNK = 1024  # test samples at a time, so that [CHUNK N] similarities fit in memory


def knn_probabilities(train_x: Tensor, train_y: Tensor, test_x: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Train features [N D] with labels [N K] bool, test features [M D], to float32 scores [M K] in [0, 1].

    The mean of the labels of the k nearest by cosine, each weighted by exp(cosine / 0.07): for one label an image a
    vote whose rows sum to 1, for several labels the weighted share of neighbours that have each.
    """
    train, labels = F.normalize(train_x.float(), dim=1), train_y.float()
    scores = []
    for part in test_x.float().split(CHUNK):
        cosine, nearest = (F.normalize(part, dim=1) @ train.T).topk(min(k, len(train)), dim=1)
        weight = (cosine / TEMPERATURE).softmax(dim=1)  # [m k]
        scores.append(torch.einsum("mk,mkc->mc", weight, labels[nearest]))
    return torch.cat(scores).clamp(0.0, 1.0)
