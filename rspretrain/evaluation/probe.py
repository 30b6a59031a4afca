"""Evaluate frozen features with a linear probe and k-nearest neighbours, on any labels of a shard set.

Whole images, no augmentation, eval mode, float32: results depend on weights and data only. The linear probe's C comes
from a fixed grid. It is chosen on the validation samples or, without these, on every fifth training sample; the final
fit then uses all training samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rspretrain.arrays import Rows
from rspretrain.evaluation.logistic import LogisticPath
from rspretrain.evaluation.metrics import Scores, compute_scores, summary_metrics
from rspretrain.evaluation.splits import ProbeData, holdout_mask
from rspretrain.nn.backbones import Backbone
from rspretrain.nn.tokens import TokenFeatures
from rspretrain.nn.weights import contract_inputs, normalise_from_contract
from rspretrain.sensors import MEASURED, Group
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings

C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0)  # scikit-learn's C, for standardised features
NUM_NEIGHBOURS = 20
KNN_TEMPERATURE = 0.07  # as in DINO (Caron et al. 2021, appendix F) and Wu et al. 2018
_KNN_CHUNK = 1024  # test samples at a time, so that the [chunk N] similarities fit in memory


@dataclass(frozen=True)
class LabelledFeatures:
    """Features [N D] float32 and multi-hot labels [N K] bool of some samples."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class ProbeResult:
    """Test scores of both probes; `strength` is the C chosen in validation."""

    data: ProbeData
    strength: float
    linear: Scores
    knn: Scores

    def metrics(self) -> dict[str, float]:
        """Summary metrics by metric name, for a run's sinks."""
        kinds = {"linear": self.linear, "knn": self.knn}
        return {
            f"probe/{kind}_{name}": value for kind, scores in kinds.items() for name, value in summary_metrics(scores)
        }

    def as_dict(self) -> dict[str, Any]:
        """All results, for a JSON file."""
        data = self.data
        return {
            "nomenclature": data.nomenclature,
            "classes": list(data.classes),
            "train_split": data.train_split,
            "test_split": data.test_split,
            "n_train": len(data.train),
            "n_val": 0 if data.val is None else len(data.val),
            "n_test": len(data.test),
            "n_unlabelled": data.num_unlabelled,
            "strength": self.strength,
            "linear": asdict(self.linear),
            "knn": asdict(self.knn),
        }


def network_input_of(contract: dict[str, Any], shards: ShardSet) -> NetworkInput:
    """The transform from a shard set to an exported backbone's input. ValueError for other sensors, bands or units."""
    groups = list(shards.groups.values())
    return NetworkInput(
        [sensor_input_of(described, groups, str(shards.path)) for described in contract_inputs(contract)]
    )


def sensor_input_of(described: Mapping[str, Any], groups: Sequence[Group], where: str) -> SensorInput:
    """The transform from pixels of `groups` to the input that a contract describes.

    `where` names the pixels in errors. ValueError for other sensors, bands or units.
    """
    statistics = {band["name"]: (band["mean"], band["std"]) for band in described["normalise"]["bands"]}
    settings = SensorSettings(bands=tuple(described["bands"]), normalise=MEASURED, statistics=statistics)
    sensor_input = SensorInput(described["sensor"], settings, groups)
    if sensor_input.normalise.units != described["units"]:
        raise ValueError(
            f"{where} holds sensor {described['sensor']!r} in units {sensor_input.normalise.units!r}; the network was "
            f"trained on {described['units']!r}. Use images in those units."
        )
    sensor_input.normalise = normalise_from_contract(
        described
    )  # the statistics used in training, not those of today's table
    return sensor_input


def extract_features(
    backbone: Backbone | TokenFeatures,
    network_input: NetworkInput,
    shards: ShardSet,
    rows: Rows,
    batch_size: int = 128,
    device: torch.device | None = None,
) -> Tensor:
    """Pooled features [N D] float32 on the CPU, in the order of `rows` (any order)."""
    device = device or torch.device("cpu")
    was_training = backbone.training
    backbone.to(device).eval()
    network_input.to(device)
    features = torch.empty(len(rows), backbone.num_features)
    reading = np.argsort(rows, kind="stable")  # read in shard order, not in key order
    done = 0
    try:
        with torch.no_grad():
            for batch in evaluation_batches(shards, network_input.groups, rows[reading], batch_size, device):
                out = backbone(network_input.evaluate(batch, backbone.px)).float().cpu()
                features[torch.from_numpy(reading[done : done + len(out)])] = out
                done += len(out)
    finally:
        backbone.train(was_training)
    return features


def _targets(y: Tensor, multi: bool) -> Tensor:
    return y if multi else y.long().argmax(dim=1)


def linear_probe(
    train: LabelledFeatures, test: LabelledFeatures, multi: bool, val: LabelledFeatures | None = None
) -> tuple[Scores, float]:
    """Test scores of logistic regression, and the C with the best AP macro (multi-label) or top-1 in validation."""
    num_classes = train.y.shape[1]
    held_out = holdout_mask(train.y, multi)
    if val is None and not held_out.any():  # with at most four samples per class, none is held out
        model = LogisticPath(train.x, _targets(train.y, multi), num_classes).fit(1.0)
        return compute_scores(model.probabilities(test.x), test.y, multi), 1.0
    fit_on = train if val is not None else LabelledFeatures(train.x[~held_out], train.y[~held_out])
    check = val if val is not None else LabelledFeatures(train.x[held_out], train.y[held_out])
    path = LogisticPath(fit_on.x, _targets(fit_on.y, multi), num_classes)
    models = {c: path.fit(c) for c in C_GRID}
    quality = {
        c: summary_metrics(compute_scores(model.probabilities(check.x), check.y, multi))[0][1]
        for c, model in models.items()
    }
    best = max(C_GRID, key=lambda c: (quality[c], -c))
    model = models[best]
    if val is None:  # fit on all training samples, the held-out ones included
        model = LogisticPath(train.x, _targets(train.y, multi), num_classes).fit(best)
    return compute_scores(model.probabilities(test.x), test.y, multi), best


def knn_probe(train: LabelledFeatures, test: LabelledFeatures, multi: bool) -> Scores:
    """Test scores of a weighted vote of the 20 nearest training samples."""
    return compute_scores(knn_probabilities(train.x, train.y, test.x), test.y, multi)


def knn_probabilities(train_x: Tensor, train_y: Tensor, test_x: Tensor, k: int = NUM_NEIGHBOURS) -> Tensor:
    """Train features [N D] with labels [N K] bool, test features [M D] -> float32 scores [M K] in [0, 1].

    The score is the mean label of the k nearest training samples by cosine, weighted by exp(cosine / 0.07).
    Single-label rows sum to 1.
    """
    train, labels = F.normalize(train_x.float(), dim=1), train_y.float()
    scores = []
    for part in test_x.float().split(_KNN_CHUNK):
        cosine, nearest = (F.normalize(part, dim=1) @ train.T).topk(min(k, len(train)), dim=1)
        weight = (cosine / KNN_TEMPERATURE).softmax(dim=1)  # [m k]
        scores.append(torch.einsum("mk,mkc->mc", weight, labels[nearest]))
    return torch.cat(scores).clamp(0.0, 1.0)


def probe(
    backbone: Backbone,
    network_input: NetworkInput,
    shards: ShardSet,
    data: ProbeData,
    batch_size: int = 128,
    device: torch.device | None = None,
) -> ProbeResult:
    """Run both probes on a backbone in memory. `network_input` must provide the bands and units of its training."""
    hot = torch.from_numpy(shards.labels(data.nomenclature))

    def labelled(rows: Rows) -> LabelledFeatures:
        return LabelledFeatures(extract_features(backbone, network_input, shards, rows, batch_size, device), hot[rows])

    train, test = labelled(data.train), labelled(data.test)
    val = None if data.val is None else labelled(data.val)
    linear, strength = linear_probe(train, test, data.multi, val)
    return ProbeResult(data, strength, linear, knn_probe(train, test, data.multi))


def reinitialised(backbone: Backbone, seed: int) -> Backbone:
    """The same network with random weights, which depend on the seed only: the baseline for a pretrained one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone(backbone.sensor, backbone.bands, backbone.px, backbone.architecture, backbone.model_args)
