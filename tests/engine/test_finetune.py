import pytest
import torch

from engine.finetunes import Coloured, finetune, job, write_config
from rspretrain import config
from rspretrain.config import ConfigError
from rspretrain.engine.finetune import prepare_finetune
from rspretrain.engine.trainer import train
from rspretrain.nn.weights import export_backbone
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.world import World


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("finetune"))


def exported(path, folder, sensor="s2"):
    """Export a backbone as pretraining does."""
    run = job(path, f"run.dir={folder}/none")
    views = run.objective.views.sensor_inputs()
    backbone = run.objective.classifier.backbones[sensor]
    return export_backbone(backbone, {sensor: views[sensor].normalise}, folder / sensor, {})


def test_exported_backbones_keep_their_bands_and_weights(path, tmp_path):
    folder = exported(path, tmp_path)
    run = job(path, "sensors={}", f"backbone.s2={folder}", f"run.dir={tmp_path}/run")
    classifier = run.objective.classifier
    assert classifier.bands == {"s2": ("B02", "B03", "B04", "B08")}
    original = job(path).objective.classifier.backbones["s2"].state_dict()
    for name, value in classifier.backbones["s2"].state_dict().items():
        assert torch.equal(value, original[name])
    fresh = job(path, "sensors={}", f"backbone.s2={folder}", "tune.mode=scratch", "run.seed=9")
    assert not torch.equal(fresh.objective.classifier.backbones["s2"].model.cls_token, original["model.cls_token"])


def test_a_random_and_a_pretrained_backbone_together(path, tmp_path):
    folder = exported(path, tmp_path)
    run = job(path, "sensors={s1: {bands: [VV, VH], normalise: bigearthnet}}", f"backbone.s2={folder}")
    assert list(run.objective.classifier.backbones) == ["s2", "s1"]
    assert run.evaluator._initial == {"s2": str(folder), "s1": "random"}


@pytest.mark.parametrize("classifier", ["linear", "sct_fusion"])
def test_fusion_heads_and_sensor_drop(path, tmp_path, classifier):
    found = finetune(
        path, f"classifier.name={classifier}", "views.sensor_drop=0.5", "views.independent=true", "train.epochs=6",
        f"run.dir={tmp_path}/run",
    )  # fmt: skip
    assert found["test"]["ap_macro"] > 0.85


def test_early_fusion_is_one_network(path):
    run = job(path, "network.fusion=early")
    assert list(run.objective.classifier.backbones) == ["s1+s2"]
    assert list(run.objective.views.sensor_inputs()) == ["s1", "s2"]


def test_few_labels_reduce_the_batch(path):
    assert job(path, "labels.fraction=0.1").settings.train.global_batch == 7
    assert job(path).settings.train.global_batch == 8


def test_linear_mode_trains_the_head_only(path, tmp_path):
    run = job(path, "tune.mode=linear", f"run.dir={tmp_path}/run", "train.epochs=1")
    before = {name: value.clone() for name, value in run.objective.state_dict().items()}
    train(run, resume=False, log=lambda line: None)
    moved = {name for name, value in run.objective.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"classifier.head.weight", "classifier.head.bias"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.split=train",), r"data.split: got 'train', expected none for fine-tuning, .*labels.train_split"),
        (("data={sources: [{shards: x}, {shards: y}]}",), r"data.sources: got 2 shard sets, expected one for fine-t"),
        (("sensors={}",), r"backbone and sensors are both empty, expected at least one network. Set backbone.SENSOR"),
        (("sensors.s3={bands: [A]}",), r"Sensor 's3' is not in the shard set, which has \['s1', 's2'\]"),
        (("labels.nomenclature=other",), r"has no nomenclature 'other'; its nomenclatures are \['all', 'class'\]"),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused(path, overrides, message):
    with pytest.raises(ValueError, match=message):
        job(path, *overrides)


def test_backbones_of_other_sensors_and_bands_are_refused(path, tmp_path):
    folder = exported(path, tmp_path)
    with pytest.raises(ValueError, match=r"backbone.s1: .* holds a backbone of sensor 's2', expected 's1'. Set"):
        job(path, "sensors={}", f"backbone.s1={folder}")
    with pytest.raises(ValueError, match=r"sensors: got \['s2'\], which `backbone` has as well; expected each sensor"):
        job(path, f"backbone.s2={folder}")
    other = job(path, "sensors={s2: {bands: [B02, B8A]}}").objective
    inputs = other.views.sensor_inputs()
    export_backbone(other.classifier.backbones["s2"], {"s2": inputs["s2"].normalise}, tmp_path / "b8a", {})
    groups = (Group("s2_10m", "s2", ("B02", "B03"), "uint16", (12, 12), 10.0, "dn"),)
    build_shards(Coloured(samples=40, groups=groups), tmp_path / "narrow/shards", samples_per_shard=8)
    with pytest.raises(ValueError, match=r"Bands \['B8A'\] of sensor 's2' are not in the shard set"):
        job(path, "sensors={}", f"backbone.s2={tmp_path}/b8a", f"data.shards={tmp_path}/narrow/shards")


def test_ranks_without_a_sample_are_refused(path):
    settings = config.load_finetune(path, ["labels.fraction=0.01"])
    with pytest.raises(ConfigError, match=r"labels: got 1 training samples for 2 ranks with strategy.accumulate 1"):
        prepare_finetune(settings, World(0, 2, 0, torch.device("cpu")), False)
