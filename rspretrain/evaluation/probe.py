"""How good are frozen features? A linear probe and nearest neighbours, on any labels of any shard set.

Whole images, no augmentation, eval mode, float32: a result is a function of weights and data. The strength of the
linear probe comes from a fixed grid, by the validation samples, or else by every fifth training sample, which is then
given back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rspretrain.evaluation.logistic import LogisticPath
from rspretrain.evaluation.metrics import MultiLabelScores, Scores, multi_label_scores, single_label_scores
from rspretrain.evaluation.neighbours import knn_probabilities
from rspretrain.evaluation.splits import ProbeData, Rows, every_fifth
from rspretrain.nn.backbones import Backbone
from rspretrain.nn.tokens import TokenFeatures
from rspretrain.nn.weights import inputs_of, normalise_of
from rspretrain.sensors import MEASURED, Group
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings

TITLES = {"ap_macro": "AP macro", "ap_micro": "AP micro", "f1_macro": "F1 macro", "f1_micro": "F1 micro",
          "f2_macro": "F2 macro", "top1": "top-1", "average_accuracy": "mean recall"}  # fmt: skip
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # scikit-learn's C, for standardised features


@dataclass(frozen=True)
class Labelled:
    """Features [N D] float32 and multi-hot labels [N K] bool of some samples."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class ProbeResult:
    """What the probes found; `strength` is the C that validation chose."""

    data: ProbeData
    strength: float
    linear: Scores
    knn: Scores

    def metrics(self) -> dict[str, float]:
        """The headline numbers by metric name, for a run's sinks."""
        kinds = {"linear": self.linear, "knn": self.knn}
        return {f"probe/{kind}_{name}": value for kind, scores in kinds.items() for name, value in headline(scores)}

    def as_dict(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
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


def headline(scores: Scores) -> list[tuple[str, float]]:
    """The numbers that a table shows, most telling first."""
    multi = isinstance(scores, MultiLabelScores)
    names = ("ap_macro", "ap_micro", "f1_macro", "f1_micro") if multi else ("top1", "average_accuracy")
    return [(name, getattr(scores, name)) for name in names]


def network_input_of(contract: dict[str, Any], shards: ShardSet) -> NetworkInput:
    """From a shard set into an exported backbone. ValueError where sensors, bands or units are not those it needs."""
    groups = list(shards.groups.values())
    return NetworkInput([sensor_input_of(described, groups, str(shards.path)) for described in inputs_of(contract)])


def sensor_input_of(described: Mapping[str, Any], groups: Sequence[Group], where: str) -> SensorInput:
    """From pixels of these groups to the input that a contract describes; `where` names them. ValueError as above."""
    statistics = {band["name"]: (band["mean"], band["std"]) for band in described["normalise"]["bands"]}
    settings = SensorSettings(bands=tuple(described["bands"]), normalise=MEASURED, statistics=statistics)
    sensor_input = SensorInput(described["sensor"], settings, groups)
    if sensor_input.normalise.units != described["units"]:
        raise ValueError(
            f"{where} holds sensor {described['sensor']!r} in units {sensor_input.normalise.units!r}; the network was "
            f"trained on {described['units']!r}. Give it images in those units."
        )
    sensor_input.normalise = normalise_of(described)  # the numbers that it was trained with, not today's table
    return sensor_input


def extract_features(
    backbone: Backbone | TokenFeatures,
    network_input: NetworkInput,
    shards: ShardSet,
    rows: Rows,
    batch_size: int = 128,
    device: torch.device | None = None,
) -> Tensor:
    """Pooled features [N D] float32 on the CPU, in the order of `rows`, which may be any."""
    device = device or torch.device("cpu")
    was_training = backbone.training
    backbone.to(device).eval()
    network_input.to(device)
    features = torch.empty(len(rows), backbone.num_features)
    reading = np.argsort(rows, kind="stable")  # in the order of the shards, not of the keys
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


def scores_of(probabilities: Tensor, y: Tensor, multi: bool) -> Scores:
    """Metrics of probabilities [N K] against multi-hot labels [N K]."""
    return multi_label_scores(probabilities, y) if multi else single_label_scores(probabilities, _targets(y, multi))


def _targets(y: Tensor, multi: bool) -> Tensor:
    return y if multi else y.long().argmax(dim=1)


def linear_probe(train: Labelled, test: Labelled, multi: bool, val: Labelled | None = None) -> tuple[Scores, float]:
    """Test scores of logistic regression, and the strength C that is best in validation by AP macro, or top-1."""
    num_classes = train.y.shape[1]
    held_out = every_fifth(train.y, multi)
    if val is None and not held_out.any():  # four samples a class or fewer leave nothing to choose with
        model = LogisticPath(train.x, _targets(train.y, multi), num_classes).fit(1.0)
        return scores_of(model.probabilities(test.x), test.y, multi), 1.0
    fit_on = train if val is not None else Labelled(train.x[~held_out], train.y[~held_out])
    check = val if val is not None else Labelled(train.x[held_out], train.y[held_out])
    path = LogisticPath(fit_on.x, _targets(fit_on.y, multi), num_classes)
    models = {c: path.fit(c) for c in STRENGTHS}
    quality = {
        c: headline(scores_of(model.probabilities(check.x), check.y, multi))[0][1] for c, model in models.items()
    }
    best = max(STRENGTHS, key=lambda c: (quality[c], -c))
    model = models[best]
    if val is None:  # give the held-out samples back
        model = LogisticPath(train.x, _targets(train.y, multi), num_classes).fit(best)
    return scores_of(model.probabilities(test.x), test.y, multi), best


def knn_probe(train: Labelled, test: Labelled, multi: bool) -> Scores:
    """Test scores of the 20 nearest training samples by cosine (neighbours.py)."""
    return scores_of(knn_probabilities(train.x, train.y, test.x), test.y, multi)


def probe(
    backbone: Backbone,
    network_input: NetworkInput,
    shards: ShardSet,
    data: ProbeData,
    batch_size: int = 128,
    device: torch.device | None = None,
) -> ProbeResult:
    """Both probes on a backbone in memory. `network_input` must give the bands and units that it was trained with."""
    hot = torch.from_numpy(shards.labels(data.nomenclature))

    def labelled(rows: Rows) -> Labelled:
        return Labelled(extract_features(backbone, network_input, shards, rows, batch_size, device), hot[rows])

    train, test = labelled(data.train), labelled(data.test)
    val = None if data.val is None else labelled(data.val)
    linear, strength = linear_probe(train, test, data.multi, val)
    return ProbeResult(data, strength, linear, knn_probe(train, test, data.multi))


def reinitialised(backbone: Backbone, seed: int) -> Backbone:
    """The same network with random weights, a function of the seed: what a pretrained one has to beat."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Backbone(backbone.sensor, backbone.bands, backbone.px, backbone.architecture, backbone.model_args)
