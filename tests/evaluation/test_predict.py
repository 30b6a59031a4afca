"""Probabilities are those of every image by itself, for any order, batch and number of ranks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.memory import CLASSES, PAIR_GROUPS, SCENE_GROUPS, MemoryArchive, memory_shards
from gloo import run_ranks

from rspretrain.archives import open_archive
from rspretrain.archives.images import open_images
from rspretrain.evaluation.predict import (
    inputs_for,
    labels_for,
    places_of,
    predict,
    predict_patches,
    predict_with_features,
)
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.classifier_files import Answers, export_classifier, load_classifier, make_contract
from rspretrain.nn.classifiers import Classifier, LinearSettings, build_classifier
from rspretrain.nn.classifiers.ca_conv_bilstm import CaConvBilstmSettings
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings

torch.set_num_threads(1)
BANDS = {"s1": ("VV", "VH"), "s2": ("B02", "B8A", "B01")}
REAL = Path(__file__).parents[3] / "shared/data/bigearthnet-v1"
ANSWERS = Answers("all", ("a", "b", "c"), multi=True)
ROWS = np.array([17, 3, 11, 0, 12], dtype=np.int64)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("predict") / "shards", samples=20)


def pair() -> Classifier:
    """Late fusion of two small networks whose norms have seen something."""
    torch.manual_seed(0)
    settings = BackboneSettings(name="test_resnet")
    backbones = [create_backbone(settings, sensor, bands, 16) for sensor, bands in BANDS.items()]
    classifier = build_classifier(LinearSettings(), backbones, 3)
    classifier.train()({name: torch.rand(8, len(bands), 16, 16) for name, bands in BANDS.items()})
    return classifier.eval()


def sensor_inputs(shards: ShardSet) -> dict[str, SensorInput]:
    groups = list(shards.groups.values())
    return {name: SensorInput(name, SensorSettings(bands=bands), groups) for name, bands in BANDS.items()}


def contract(classifier: Classifier, inputs: dict[str, SensorInput]) -> dict[str, Any]:
    return make_contract(classifier, LinearSettings(), inputs, ANSWERS, {})


@pytest.mark.parametrize("multi", [True, False])
def test_an_image_s_probabilities_are_its_own(shards: ShardSet, multi: bool) -> None:
    classifier, inputs = pair(), sensor_inputs(shards)
    together = predict(classifier, inputs, shards, ROWS, multi=multi, batch_size=2)
    assert (together.shape, together.dtype) == ((5, 3), torch.float32)
    for row, each in zip(ROWS, together, strict=True):
        alone = predict(classifier, inputs, shards, np.array([row]), multi=multi)
        torch.testing.assert_close(alone[0], each, atol=1e-6, rtol=1e-5)
    assert len({tuple(each.tolist()) for each in together}) == 5
    if not multi:
        torch.testing.assert_close(together.sum(dim=1), torch.ones(5))
    assert not classifier.training
    assert len(predict(classifier, inputs, shards, ROWS[:0], multi=multi)) == 0


def test_features_are_what_enters_the_head(shards: ShardSet) -> None:
    classifier, inputs = pair().train(), sensor_inputs(shards)
    probabilities, features = predict_with_features(classifier, inputs, shards, ROWS, multi=True)
    with torch.no_grad():
        torch.testing.assert_close(classifier.head(features).sigmoid(), probabilities)
    assert classifier.training  # as it came
    assert not classifier.head._forward_pre_hooks


def test_pixels_are_those_that_a_backbone_sees_in_evaluation(shards: ShardSet) -> None:
    """Whole, or the middle of the finest grid: as NetworkInput.evaluate, which probes use."""
    classifier, inputs = pair(), sensor_inputs(shards)
    seen: list[torch.Tensor] = []
    classifier.backbones["s2"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for crop_px in (None, 6):
        predict(classifier, inputs, shards, np.array([4]), multi=True, crop_px=crop_px)
        (batch,) = evaluation_batches(shards, tuple(group.name for group in PAIR_GROUPS), np.array([4]), 1)
        assert torch.equal(seen[-1], NetworkInput([inputs["s2"]]).evaluate(batch, 16, crop_px))


def test_a_sensor_that_is_not_there_is_missing(shards: ShardSet, tmp_path: Path) -> None:
    classifier, inputs = pair(), sensor_inputs(shards)
    told = contract(classifier, inputs)
    s2_only = [group for group in PAIR_GROUPS if group.sensor == "s2"]
    found, missing = inputs_for(told, s2_only, "x")
    assert (list(found), missing) == (["s2"], ("s1",))
    without = memory_shards(tmp_path / "s2", samples=20, groups=tuple(s2_only))
    (row,) = (shards.row_of_key[key] for key in without.keys(np.array([0])))
    classifier.eval()
    _, features = predict_with_features(classifier, found, without, np.array([0]), multi=True)
    _, same = predict_with_features(classifier, {"s2": inputs["s2"]}, shards, np.array([row]), multi=True)
    torch.testing.assert_close(features, same)
    blank = classifier.backbones["s1"](torch.zeros(1, 2, 16, 16))
    torch.testing.assert_close(features[:, : blank.shape[1]], blank)


def test_groups_of_one_sensor_are_inputs_of_their_own(shards: ShardSet) -> None:
    settings = CaConvBilstmSettings(areas=1)
    torch.manual_seed(0)
    classifier = build_classifier(settings, [], 3)
    groups = list(shards.groups.values())
    inputs = {name: SensorInput("s2", SensorSettings(bands=some), groups) for name, some in settings.bands().items()}
    told = make_contract(classifier, settings, inputs, ANSWERS, {})
    found, missing = inputs_for(told, groups, "x")
    assert (list(found), missing) == (["s2_10m", "s2_20m", "s2_60m"], ())
    probabilities, features = predict_with_features(classifier, found, shards, ROWS, multi=True)
    assert torch.equal(probabilities, predict(classifier, inputs, shards, ROWS, multi=True))
    assert features.shape == (5, 3 * 256)


def _ranks(folder: str, exported: str, every: list[np.ndarray]) -> list[torch.Tensor]:
    shards, (classifier, _) = open_shards(folder), load_classifier(exported)
    inputs = sensor_inputs(shards)
    found = [predict_with_features(classifier, inputs, shards, rows, multi=True, batch_size=2) for rows in every]
    return [part for both in found for part in both]


@pytest.mark.slow
def test_ranks_see_every_image_once(shards: ShardSet, tmp_path: Path) -> None:
    """Five images for two ranks, and one, which leaves a rank without any."""
    folder = export_classifier(pair(), LinearSettings(), sensor_inputs(shards), ANSWERS, tmp_path / "classifier", {})
    arguments = str(shards.path), str(folder), [ROWS, ROWS[:1]]
    alone = _ranks(*arguments)
    for ranks in run_ranks(2, _ranks, *arguments, timeout_s=240):
        for part, whole in zip(ranks, alone, strict=True):
            torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pairs of ../shared/data are not here")
def test_real_scenes_are_labelled_as_their_shards_are(tmp_path: Path) -> None:
    """BigEarthNet v1's own folders of band files, and the shard set of them: the same pixels, so the same numbers."""
    sources = [f"S2={REAL}/BigEarthNet-v1.0", f"S1={REAL}/BigEarthNet-S1-v1.0"]
    build_shards(open_archive("bigearthnet", sources), tmp_path / "shards", samples_per_shard=8, workers=1)
    shards, images = open_shards(tmp_path / "shards"), open_images([f"{REAL}/BigEarthNet-v1.0"], ["s2"])
    classifier, told = pair(), contract(pair(), sensor_inputs(shards))
    inputs, _ = inputs_for(told, [group for group in shards.groups.values() if group.sensor == "s2"], "shards")
    rows = np.arange(len(shards))
    stored = predict(classifier, inputs, shards, rows, multi=True, crop_px=60)
    inputs, missing = inputs_for(told, images.groups, "images")
    found, faults, excluded = predict_patches(classifier, inputs, images, multi=True, crop_px=60)
    assert (missing, faults, excluded) == (("s1",), [], 0)
    where = [shards.row_of_key[key] for key in found.keys]
    assert len(where) == 3
    torch.testing.assert_close(found.probabilities, stored[where], atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(found.corners, places_of(shards, rows)[where], atol=1e-8)


def test_labels_are_those_of_the_same_classes(shards: ShardSet) -> None:
    hot = labels_for(shards, Answers("class", CLASSES, multi=False))
    assert torch.equal(hot, torch.from_numpy(shards.labels("class")))
    with pytest.raises(
        ValueError,
        match=r"knows \['a', 'b', 'c'\] \(several an image\) as 'all'; .* has 'class': .*\. Expected the s",
    ):
        labels_for(shards, ANSWERS)
    with pytest.raises(ValueError, match=r"knows \['field', 'forest', 'water'\] \(several an image\) as 'class'"):
        labels_for(shards, Answers("class", CLASSES, multi=True))


def test_nothing_to_predict_is_an_error_in_three_parts(shards: ShardSet) -> None:
    archive = MemoryArchive(2, broken={0: "unreadable", 1: "cloudy"})
    with pytest.raises(
        ValueError, match=r"None of 2 images is left to predict, expected one at least; Patch0: .*whole\. C"
    ):
        predict_patches(pair(), sensor_inputs(shards), archive, multi=True)


def test_what_does_not_fit_is_an_error_in_three_parts(shards: ShardSet) -> None:
    told = contract(pair(), sensor_inputs(shards))
    with pytest.raises(
        ValueError, match=r"a.d has the sensors \['rgb'\], the classifier expects one at least of \['s1', 's2'\]. Give"
    ):
        inputs_for(told, SCENE_GROUPS, "a.d")
    with pytest.raises(
        ValueError,
        match=r"has the bands \['B02'\] of sensor 's2', .* expects \['B02', 'B8A', 'B01'\]: \['B8A', 'B01'\] .*\. Give",
    ):
        inputs_for(told, [Group("s2", "s2", ("B02",), "uint16", None, 10.0, "dn")], "a.d")
    decibels = [replace(group, units="dn") for group in PAIR_GROUPS]
    with pytest.raises(ValueError, match=r"a.d holds sensor 's1' in units 'dn'; the network was trained on 'db'. Give"):
        inputs_for(told, decibels, "a.d")
