from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.memory import SCENE_GROUPS, memory_shards

from rspretrain.evaluation.probe import (
    Labelled,
    extract_features,
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


def clusters(num: int, seed: int) -> Labelled:
    """Four classes around four axes: any probe must find them."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(num) % 4
    x = 4 * torch.nn.functional.one_hot(classes, 16) + torch.randn(num, 16, generator=generator)
    return Labelled(x, torch.nn.functional.one_hot(classes).bool())


def test_features_are_those_of_each_sample_in_any_order(shards: ShardSet) -> None:
    backbone, network_input = network(shards)
    rows = np.array([17, 3, 59, 0, 42])
    features = extract_features(backbone, network_input, shards, rows, batch_size=2)
    for row, feature in zip(rows, features, strict=True):
        alone = extract_features(backbone, network_input, shards, np.array([row]))
        torch.testing.assert_close(alone[0], feature, atol=1e-5, rtol=1e-4)
    assert backbone.training  # as it came
    assert features.shape == (5, 512)


def test_probes_find_clusters() -> None:
    train, test = clusters(200, 0), clusters(80, 1)
    for multi in (False, True):
        scores, strength = linear_probe(train, test, multi)
        number = scores.ap_macro if multi else scores.top1
        assert number > 0.97
        assert strength in (0.001, 0.01, 0.1, 1.0, 10.0)
    assert knn_probe(train, test, multi=False).top1 > 0.97


def test_validation_samples_choose_the_strength_and_train_nothing() -> None:
    train, test = clusters(200, 0), clusters(80, 1)
    shuffled = Labelled(torch.randn(50, 16), clusters(50, 2).y)  # says nothing about the classes
    scores, strength = linear_probe(train, test, False, val=shuffled)
    again, _ = linear_probe(train, test, False, val=Labelled(shuffled.x, shuffled.y.clone()))
    assert scores == again
    assert scores.top1 > 0.9
    assert strength > 0


def test_a_probe_with_one_sample_a_class_has_no_choice() -> None:
    scores, strength = linear_probe(clusters(4, 0), clusters(80, 1), False)
    assert strength == 1.0
    assert scores.top1 > 0.3  # chance is 0.25


def test_a_probe_is_a_function_of_weights_and_data(shards: ShardSet) -> None:
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


def test_reinitialised_networks_follow_their_seed_alone(shards: ShardSet) -> None:
    backbone, _ = network(shards)
    state = torch.get_rng_state()
    a, b, c = (reinitialised(backbone, seed).model.conv1.weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_exported_backbone_gets_the_input_it_was_trained_with(shards: ShardSet, tmp_path: Path) -> None:
    backbone, network_input = network(shards)
    contract = make_contract(backbone, network_input.normalisations(), {})
    described = contract["inputs"][0]
    described["normalise"]["bands"][0]["mean"] = 123.0  # as if the table had changed since
    assert network_input_of(contract, shards).normalisations()["s2"].mean.tolist() == [123.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"in units 'dn'; the network was trained on 'reflectance'. Give it"):
        network_input_of({**contract, "inputs": [{**described, "units": "reflectance"}]}, shards)
    pictures = memory_shards(tmp_path / "rgb", groups=SCENE_GROUPS)
    with pytest.raises(ValueError, match=r"Sensor 's2' is not in the shard set, which has \['rgb'\]"):
        network_input_of(contract, pictures)
    described["bands"] = ["B02", "B10"]
    with pytest.raises(ValueError, match=r"Bands \['B10'\].*wanted \['B02', 'B10'\], available \['B02', 'B03'"):
        network_input_of(contract, shards)
