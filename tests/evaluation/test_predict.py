"""Predictions do not depend on order, batch size and number of ranks."""

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
    predict,
    predict_patches,
    predict_with_features,
    sample_corners,
)
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.classifier_files import LabelSpec, export_classifier, load_classifier, make_contract
from rspretrain.nn.classifiers import Classifier, build_classifier
from rspretrain.nn.classifiers.ca_conv_bilstm import CaConvBilstmSettings
from rspretrain.nn.classifiers.linear import LinearSettings
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings

torch.set_num_threads(1)
BANDS = {"s1": ("VV", "VH"), "s2": ("B02", "B8A", "B01")}
REAL = Path(__file__).parents[3] / "shared/data/bigearthnet-v1"
LABEL_SPEC = LabelSpec("all", ("a", "b", "c"), multi=True)
ROWS = np.array([17, 3, 11, 0, 12], dtype=np.int64)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("predict") / "shards", samples=20)


def pair() -> Classifier:
    """Late fusion of two small networks with non-initial batch statistics."""
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
    return make_contract(classifier, LinearSettings(), inputs, LABEL_SPEC, {})


@pytest.mark.parametrize("multi", [True, False])
def test_probabilities_do_not_depend_on_the_batch(shards: ShardSet, multi: bool) -> None:
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


def test_features_are_the_input_of_the_head(shards: ShardSet) -> None:
    classifier, inputs = pair().train(), sensor_inputs(shards)
    probabilities, features = predict_with_features(classifier, inputs, shards, ROWS, multi=True)
    with torch.no_grad():
        torch.testing.assert_close(classifier.head(features).sigmoid(), probabilities)
    assert classifier.training  # the mode is restored
    assert not classifier.head._forward_pre_hooks


def test_inputs_equal_those_of_probes(shards: ShardSet) -> None:
    """Whole images, or the centre of the finest grid, as in NetworkInput.evaluate."""
    classifier, inputs = pair(), sensor_inputs(shards)
    seen: list[torch.Tensor] = []
    classifier.backbones["s2"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for crop_px in (None, 6):
        predict(classifier, inputs, shards, np.array([4]), multi=True, crop_px=crop_px)
        (batch,) = evaluation_batches(shards, tuple(group.name for group in PAIR_GROUPS), np.array([4]), 1)
        assert torch.equal(seen[-1], NetworkInput([inputs["s2"]]).evaluate(batch, 16, crop_px))


def test_an_absent_sensor_counts_as_missing(shards: ShardSet, tmp_path: Path) -> None:
    classifier, inputs = pair(), sensor_inputs(shards)
    described = contract(classifier, inputs)
    s2_only = [group for group in PAIR_GROUPS if group.sensor == "s2"]
    found, missing = inputs_for(described, s2_only, "x")
    assert (list(found), missing) == (["s2"], ("s1",))
    without = memory_shards(tmp_path / "s2", samples=20, groups=tuple(s2_only))
    (row,) = (shards.row_of_key[key] for key in without.keys(np.array([0])))
    classifier.eval()
    _, features = predict_with_features(classifier, found, without, np.array([0]), multi=True)
    _, same = predict_with_features(classifier, {"s2": inputs["s2"]}, shards, np.array([row]), multi=True)
    torch.testing.assert_close(features, same)
    blank = classifier.backbones["s1"](torch.zeros(1, 2, 16, 16))
    torch.testing.assert_close(features[:, : blank.shape[1]], blank)


def test_groups_of_one_sensor_can_be_separate_inputs(shards: ShardSet) -> None:
    settings = CaConvBilstmSettings(areas=1)
    torch.manual_seed(0)
    classifier = build_classifier(settings, [], 3)
    groups = list(shards.groups.values())
    inputs = {
        name: SensorInput("s2", SensorSettings(bands=some), groups) for name, some in settings.own_inputs().items()
    }
    found, missing = inputs_for(make_contract(classifier, settings, inputs, LABEL_SPEC, {}), groups, "x")
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
def test_two_ranks_give_the_predictions_of_one(shards: ShardSet, tmp_path: Path) -> None:
    """With five images, and with one, which leaves a rank without images."""
    folder = export_classifier(pair(), LinearSettings(), sensor_inputs(shards), LABEL_SPEC, tmp_path / "classifier", {})
    arguments = str(shards.path), str(folder), [ROWS, ROWS[:1]]
    alone = _ranks(*arguments)
    for ranks in run_ranks(2, _ranks, *arguments, timeout_s=240):
        for part, whole in zip(ranks, alone, strict=True):
            torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pairs of ../shared/data are not here")
def test_real_scenes_get_the_predictions_of_their_shards(tmp_path: Path) -> None:
    """BigEarthNet v1's folders of band files, and the shard set built from them."""
    sources = [f"S2={REAL}/BigEarthNet-v1.0", f"S1={REAL}/BigEarthNet-S1-v1.0"]
    build_shards(open_archive("bigearthnet", sources), tmp_path / "shards", samples_per_shard=8, workers=1)
    shards, images = open_shards(tmp_path / "shards"), open_images([f"{REAL}/BigEarthNet-v1.0"], ["s2"])
    classifier, described = pair(), contract(pair(), sensor_inputs(shards))
    inputs, _ = inputs_for(described, [group for group in shards.groups.values() if group.sensor == "s2"], "shards")
    rows = np.arange(len(shards))
    stored = predict(classifier, inputs, shards, rows, multi=True, crop_px=60)
    inputs, missing = inputs_for(described, images.groups, "images")
    found, faults, excluded = predict_patches(classifier, inputs, images, multi=True, crop_px=60)
    assert (missing, faults, excluded) == (("s1",), [], 0)
    where = [shards.row_of_key[key] for key in found.keys]
    assert len(where) == 3
    torch.testing.assert_close(found.probabilities, stored[where], atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(found.corners, sample_corners(shards, rows)[where], atol=1e-8)


def test_labels_require_the_classes_of_the_classifier(shards: ShardSet) -> None:
    hot = labels_for(shards, LabelSpec("class", CLASSES, multi=False))
    assert torch.equal(hot, torch.from_numpy(shards.labels("class")))
    with pytest.raises(
        ValueError,
        match=r"predicts \['a', 'b', 'c'\] \(several per image\) as 'all'; .* has 'class': .*\. Expected the s",
    ):
        labels_for(shards, LABEL_SPEC)
    with pytest.raises(ValueError, match=r"predicts \['field', 'forest', 'water'\] \(several per image\) as 'class'"):
        labels_for(shards, LabelSpec("class", CLASSES, multi=True))


def test_an_archive_without_readable_images_is_refused(shards: ShardSet) -> None:
    archive = MemoryArchive(2, broken={0: "unreadable", 1: "cloudy"})
    with pytest.raises(
        ValueError, match=r"None of 2 images can be predicted, expected at least one; Patch0: .*read\. C"
    ):
        predict_patches(pair(), sensor_inputs(shards), archive, multi=True)


def test_other_sensors_bands_and_units_are_refused(shards: ShardSet) -> None:
    described = contract(pair(), sensor_inputs(shards))
    with pytest.raises(
        ValueError, match=r"a.d has the sensors \['rgb'\], the classifier expects at least one of \['s1', 's2'\]. Use"
    ):
        inputs_for(described, SCENE_GROUPS, "a.d")
    with pytest.raises(
        ValueError,
        match=r"has the bands \['B02'\] of sensor 's2', .* expects \['B02', 'B8A', 'B01'\]: \['B8A', 'B01'\] .*\. Use",
    ):
        inputs_for(described, [Group("s2", "s2", ("B02",), "uint16", None, 10.0, "dn")], "a.d")
    other_units = [replace(group, units="dn") for group in PAIR_GROUPS]
    with pytest.raises(ValueError, match=r"a.d holds sensor 's1' in units 'dn'; the network was trained on 'db'. Use"):
        inputs_for(described, other_units, "a.d")
