import math

import numpy as np
import pytest
import torch
from fakes.memory import memory_shards
from torch import nn

from rspretrain.finetuning.supervised import Supervised
from rspretrain.finetuning.targets import TableTargets
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.classifiers.linear import LinearClassifier, LinearSettings
from rspretrain.objectives.base import CHANCE_RATIO
from rspretrain.shardset.index import ShardSet
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import SensorInput, SensorSettings
from rspretrain.transforms.train_views import TrainViews, TrainViewSettings

BANDS = ("B02", "B03")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("supervised") / "shards", samples=24)


def objective(shards: ShardSet, nomenclature: str) -> Supervised:
    torch.manual_seed(0)
    sensor = SensorInput("s2", SensorSettings(bands=BANDS), list(shards.groups.values()))
    classifier = LinearClassifier(
        LinearSettings(), [create_backbone(BackboneSettings(name="test_resnet"), "s2", BANDS, 12)], 3
    )
    views = TrainViews(TrainViewSettings(symmetry="none"), {"s2": sensor}, classifier.px)
    hot, multi = torch.from_numpy(shards.labels(nomenclature)), shards.nomenclatures[nomenclature].multi
    return Supervised(classifier, views, TableTargets(hot, multi)).eval()


@pytest.mark.parametrize("nomenclature", ["all", "class"])
def test_the_loss_equals_torchs_on_the_labels_of_the_batch(shards: ShardSet, nomenclature: str) -> None:
    one, rows = objective(shards, nomenclature), np.array([17, 3, 20, 8, 3])
    batch = next(iter(evaluation_batches(shards, one.groups, rows, 8)))
    found = one(batch)
    logits = one.classifier(one.views(batch))
    hot = torch.from_numpy(shards.labels(nomenclature)[rows])
    multi = nomenclature == "all"
    bce, ce = nn.BCEWithLogitsLoss()(logits, hot.float()), nn.CrossEntropyLoss()(logits, hot.int().argmax(1))
    expected = bce if multi else ce
    torch.testing.assert_close(found.loss, expected, atol=0, rtol=1e-6)
    assert set(found.metrics) == set(one.metric_names) == {"loss/bce" if multi else "loss/ce", CHANCE_RATIO}
    found.loss.backward()
    assert all(parameter.grad is not None for parameter in one.parameters())


def test_constant_predictions_have_a_chance_ratio_of_1(shards: ShardSet) -> None:
    for nomenclature, loss in (("all", math.log(2)), ("class", math.log(3))):
        one = objective(shards, nomenclature)
        nn.init.zeros_(one.classifier.head.weight)
        nn.init.zeros_(one.classifier.head.bias)
        found = one(next(iter(evaluation_batches(shards, one.groups, np.arange(5), 8))))
        assert found.loss.item() == pytest.approx(loss)
        assert found.metrics[CHANCE_RATIO].item() == pytest.approx(1.0)


def test_labels_are_not_in_the_state_dict(shards: ShardSet) -> None:
    one = objective(shards, "all")
    assert all(name.startswith(("classifier.", "views.")) for name in one.state_dict())
    assert (one.backbones(), one.inputs(), one.teachers(), one.couples_samples) == ({}, {}, (), False)
