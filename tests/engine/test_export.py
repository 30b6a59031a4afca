import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.runs import BYOL, job, write_config
from rspretrain.config import ConfigError
from rspretrain.engine.checkpoint import WEIGHTS, DamagedCheckpointError
from rspretrain.engine.export import export_checkpoint
from rspretrain.engine.trainer import train
from rspretrain.evaluation.probe import extract_features, network_input_of
from rspretrain.nn.weights import load_backbone, read_contract


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    trained = job(write_config(folder, samples=16), "train.steps=4", "train.checkpoint_every=2")
    train(trained, resume=False, log=print)
    return folder / "run", trained


def test_the_run_exports_the_weights_of_its_last_step(run):
    folder, trained = run
    for sensor, backbone in trained.objective.backbones().items():
        exported = load_file(folder / "export" / sensor / "model.safetensors")
        assert all(torch.equal(exported[name], value) for name, value in backbone.model.state_dict().items())


def test_the_newest_checkpoint_is_exported_by_default(run):
    folder, _ = run
    exported = export_checkpoint(folder, None, None)
    assert exported["s2"] == folder / "export_step_00000004" / "s2"
    name = "model.safetensors"
    assert (exported["s2"] / name).read_bytes() == (folder / "export" / "s2" / name).read_bytes()


def test_the_export_names_the_origin_of_its_weights(run, tmp_path):
    folder, trained = run
    exported = export_checkpoint(folder, 2, tmp_path)
    contract = json.dumps(json.loads((exported["s1"] / "config.json").read_text()))
    assert '"step": 2' in contract
    assert '"samples_seen": 16' in contract
    assert trained.sources.sha256 in contract


def test_one_network_for_two_sensors_is_one_export(tmp_path):
    trained = job(write_config(tmp_path, samples=16), BYOL, "objective.fusion=early", "train.steps=2")
    train(trained, resume=False, log=print)
    exported = export_checkpoint(tmp_path / "run", None, None)
    assert exported == {"s1+s2": tmp_path / "run" / "export_step_00000002" / "s1+s2"}
    contract = read_contract(exported["s1+s2"])
    assert [(one["sensor"], one["bands"], one["units"]) for one in contract["inputs"]] == [
        ("s1", ["VV", "VH"], "db"),
        ("s2", ["B02", "B03", "B04"], "dn"),
    ]
    backbone, _ = load_backbone(exported["s1+s2"], ("VV", "VH", "B02", "B03", "B04"))
    student, shards = trained.objective.backbones()["s1+s2"], trained.sources.sets["shards"]
    features = extract_features(student, trained.objective.inputs()["s1+s2"], shards, np.arange(4))
    again = extract_features(backbone, network_input_of(contract, shards), shards, np.arange(4))
    assert torch.equal(features, again)


def test_either_network_of_a_run_with_a_teacher(tmp_path):
    trained = job(write_config(tmp_path, samples=16), BYOL, "train.steps=2", "objective.momentum=0.5", "optim.lr=0.1")
    train(trained, resume=False, log=print)
    networks = {"student": trained.objective.student, "teacher": trained.objective.teacher}
    for whose, network in networks.items():
        folders = export_checkpoint(tmp_path / "run", None, tmp_path / whose, whose)
        exported = load_file(folders["s2"] / "model.safetensors")
        assert all(
            torch.equal(exported[name], value) for name, value in network["s2"].encoder.model.state_dict().items()
        )
        assert read_contract(folders["s2"])["provenance"]["objective"]["export"] == whose
    student, teacher = (load_file(tmp_path / whose / "s2/model.safetensors") for whose in networks)
    assert any(not torch.equal(value, teacher[name]) for name, value in student.items())


def test_export_of_a_missing_teacher(run, tmp_path):
    with pytest.raises(ConfigError, match=r"--whose: got 'teacher' for the objective '\w+', expected none: it has no"):
        export_checkpoint(run[0], None, tmp_path, "teacher")


def test_missing_step_and_missing_run(run, tmp_path):
    with pytest.raises(ConfigError, match="has no step 3, expected one of: 2, 4. Choose one of them"):
        export_checkpoint(run[0], 3, None)
    with pytest.raises(ConfigError, match="has no config.yaml, expected a run folder"):
        export_checkpoint(tmp_path, None, None)


def test_a_damaged_checkpoint_is_not_exported(run):
    path = run[0] / "checkpoints" / "step_00000002" / WEIGHTS
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedCheckpointError, match="weights.safetensors has SHA-256"):
        export_checkpoint(run[0], 2, None)
    path.write_bytes(data)
