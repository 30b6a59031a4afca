import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.memory import SCENE_GROUPS, memory_shards
from sklearn.neighbors import KNeighborsClassifier

from rspretrain.evaluation.probe import (
    _KNN_CHUNK,
    KNN_TEMPERATURE,
    LabelledFeatures,
    extract_features,
    knn_probabilities,
    knn_probe,
    linear_probe,
    network_input_of,
    probe,
    reinitialised,
)
from rspretrain.evaluation.splits import choose_data
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.weights import make_contract
from rspretrain.shardset.index import ShardSet
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings

S2_BANDS = ("B02", "B8A", "B01")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("probe") / "shards", samples=60)


def network(shards: ShardSet) -> tuple[Backbone, NetworkInput]:
    backbone = create_backbone(BackboneSettings(name="resnet18"), "s2", S2_BANDS, 32)
    sensor = SensorInput("s2", SensorSettings(bands=S2_BANDS), list(shards.groups.values()))
    return reinitialised(backbone, 0), NetworkInput([sensor])


def clusters(num: int, seed: int) -> LabelledFeatures:
    """Four well separated classes, one per axis."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(num) % 4
    x = 4 * torch.nn.functional.one_hot(classes, 16) + torch.randn(num, 16, generator=generator)
    return LabelledFeatures(x, torch.nn.functional.one_hot(classes).bool())


def test_features_do_not_depend_on_order_and_batch(shards: ShardSet) -> None:
    backbone, network_input = network(shards)
    rows = np.array([17, 3, 59, 0, 42])
    features = extract_features(backbone, network_input, shards, rows, batch_size=2)
    for row, feature in zip(rows, features, strict=True):
        alone = extract_features(backbone, network_input, shards, np.array([row]))
        torch.testing.assert_close(alone[0], feature, atol=1e-5, rtol=1e-4)
    assert backbone.training  # the mode is restored
    assert features.shape == (5, 512)


def test_probes_find_clusters() -> None:
    train, test = clusters(200, 0), clusters(80, 1)
    for multi in (False, True):
        scores, strength = linear_probe(train, test, multi)
        metric = scores.ap_macro if multi else scores.top1
        assert metric > 0.97
        assert strength in (0.001, 0.01, 0.1, 1.0, 10.0)
    assert knn_probe(train, test, multi=False).top1 > 0.97


def test_validation_samples_choose_c_and_are_not_trained_on() -> None:
    train, test = clusters(200, 0), clusters(80, 1)
    shuffled = LabelledFeatures(torch.randn(50, 16), clusters(50, 2).y)  # uninformative features
    scores, strength = linear_probe(train, test, False, val=shuffled)
    again, _ = linear_probe(train, test, False, val=LabelledFeatures(shuffled.x, shuffled.y.clone()))
    assert scores == again
    assert scores.top1 > 0.9
    assert strength > 0


def test_c_is_1_with_one_sample_per_class() -> None:
    scores, strength = linear_probe(clusters(4, 0), clusters(80, 1), False)
    assert strength == 1.0
    assert scores.top1 > 0.3  # chance is 0.25


def test_votes_in_closed_form() -> None:
    train_x = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    train_y = torch.tensor([[True, False], [True, True], [False, True]])
    (scores,) = knn_probabilities(train_x, train_y, torch.tensor([[3.0, 0.0]]), k=2)
    far = math.exp(-1 / KNN_TEMPERATURE)  # cosines 1 and 0; lengths do not matter
    torch.testing.assert_close(scores, torch.tensor([1.0, far / (1 + far)]))


def test_knn_equals_scikit_learn_with_the_same_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    train_x, test_x = torch.randn(300, 16, generator=generator), torch.randn(_KNN_CHUNK + 76, 16, generator=generator)
    target = torch.randint(5, (300,), generator=generator)
    reference = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / KNN_TEMPERATURE)
    ).fit(train_x.numpy(), target.numpy())
    ours = knn_probabilities(train_x, torch.nn.functional.one_hot(target).bool(), test_x)
    expected = torch.tensor(reference.predict_proba(test_x.numpy())).float()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_knn_with_fewer_samples_than_neighbours() -> None:
    scores = knn_probabilities(torch.eye(3), torch.eye(3).bool(), torch.eye(3))
    torch.testing.assert_close(scores.argmax(1), torch.arange(3))
    torch.testing.assert_close(scores.sum(1), torch.ones(3))


def test_results_depend_on_weights_and_data_only(shards: ShardSet) -> None:
    backbone, network_input = network(shards)
    data = choose_data(shards, "all")
    first, second = (probe(backbone, network_input, shards, data, batch_size=16).as_dict() for _ in range(2))
    assert first == second
    assert first["n_train"] == 48
    assert set(probe(backbone, network_input, shards, data).metrics()) == {
        f"probe/{kind}_{name}"
        for kind in ("linear", "knn")
        for name in ("ap_macro", "ap_micro", "f1_macro", "f1_micro")
    }


def test_reinitialised_networks_depend_on_the_seed_only(shards: ShardSet) -> None:
    backbone, _ = network(shards)
    state = torch.get_rng_state()
    a, b, c = (reinitialised(backbone, seed).model.conv1.weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_exported_backbone_gets_the_input_of_its_training(shards: ShardSet, tmp_path: Path) -> None:
    backbone, network_input = network(shards)
    contract = make_contract(backbone, network_input.normalisations(), {})
    described = contract["inputs"][0]
    described["normalise"]["bands"][0]["mean"] = 123.0  # as if the table had changed since
    assert network_input_of(contract, shards).normalisations()["s2"].mean.tolist() == [123.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"in units 'dn'; the network was trained on 'reflectance'. Use im"):
        network_input_of({**contract, "inputs": [{**described, "units": "reflectance"}]}, shards)
    pictures = memory_shards(tmp_path / "rgb", groups=SCENE_GROUPS)
    with pytest.raises(ValueError, match=r"Sensor 's2' is not in the shard set, which has \['rgb'\]"):
        network_input_of(contract, pictures)
    described["bands"] = ["B02", "B10"]
    with pytest.raises(ValueError, match=r"Bands \['B10'\].*wanted \['B02', 'B10'\], available \['B02', 'B03'"):
        network_input_of(contract, shards)
