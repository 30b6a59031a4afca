import json
from pathlib import Path

import pytest
import torch
from fakes.memory import SCENE_GROUPS, memory_shards

from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.weights import export_backbone
from rspretrain.transforms.normalise import Normalise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported backbone, a matching shard set, and one that does not match."""
    folder = tmp_path_factory.mktemp("probe")
    memory_shards(folder / "shards", samples=40)
    memory_shards(folder / "pictures", samples=10, groups=SCENE_GROUPS)
    bands = ("B02", "B08", "B11")
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSettings(name="resnet18"), "s2", bands, 32)
    export_backbone(backbone, {"s2": Normalise("fixed", bands, "dn")}, folder / "s2", {"objective": "none"})
    return folder


@pytest.fixture
def launch(folder, command, monkeypatch):
    def launched(*args: str):
        monkeypatch.chdir(folder)
        return command("probe", "--backbone", "s2", *args)

    return launched


def test_a_table_and_a_file(folder: Path, launch) -> None:
    done = launch("--shards", "shards", "--nomenclature", "all", "--random-baseline", "--batch-size", "16")
    assert done.returncode == 0, done.stderr
    assert "shards: labels 'all', 3 classes, several labels per sample" in done.stdout
    assert "trained on 32 (train), tested on 8 (test); all values in percent" in done.stdout
    kinds, head, random, pretrained = (line.split() for line in done.stdout.split("\n\n")[1].splitlines())
    assert kinds == ["linear", "probe", "nearest", "neighbours"]
    assert head[:4] == ["AP", "macro", "AP", "micro"]
    assert (random[:3], pretrained[:3]) == (["s2", "resnet18,", "random"], ["s2", "resnet18,", "pretrained"])
    (written,) = json.loads((folder / "probe.json").read_text())["backbones"]
    result = written["results"]["pretrained"]
    assert pretrained[3] == f"{100 * result['linear']['ap_macro']:.1f}"
    assert written["contract"]["bands"] == ["B02", "B08", "B11"]
    assert (result["n_train"], result["n_test"]) == (32, 8)


def test_mismatches_are_one_paragraph(launch) -> None:
    for args, message in {
        ("--shards", "pictures"): "Sensor 's2' is not in the shard set, which has ['rgb']",
        ("--shards", "shards", "--test-split", "val"): "has no split 'val'; its splits are {'test': 8, 'train': 32}",
    }.items():
        done = launch(*args)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
