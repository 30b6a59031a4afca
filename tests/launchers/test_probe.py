import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes.memory import SCENE_GROUPS, memory_shards

from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.normalise import Normalise
from rspretrain.nn.weights import export_backbone

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported backbone, a shard set that it fits, and one that it does not."""
    folder = tmp_path_factory.mktemp("probe")
    memory_shards(folder / "shards", samples=40)
    memory_shards(folder / "pictures", samples=10, groups=SCENE_GROUPS)
    bands = ("B02", "B08", "B11")
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSettings(name="resnet18"), "s2", bands, 32)
    export_backbone(backbone, Normalise("fixed", bands, "dn"), folder / "s2", {"objective": "none"})
    return folder


def launch(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(REPOSITORY / "launchers/probe.py"), "--backbone", "s2", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=environment)


def test_a_table_and_a_file(folder: Path) -> None:
    done = launch(folder, "--shards", "shards", "--nomenclature", "all", "--random-baseline", "--batch-size", "16")
    assert done.returncode == 0, done.stderr
    assert "labels 'all': 3 classes, several labels a sample\ntrained on 32 (train), tested on 8 (test)" in done.stdout
    lines = done.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("model"))
    assert lines[head].split()[:5] == ["model", "linear", "AP", "macro", "linear"]
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["random", "pretrained"]
    written = json.loads((folder / "s2/probe.json").read_text())
    result = written["results"]["pretrained"]
    assert lines[head + 2].split()[1] == f"{100 * result['linear']['ap_macro']:.1f}"
    assert written["contract"]["bands"] == ["B02", "B08", "B11"]
    assert (result["n_train"], result["n_test"]) == (32, 8)


def test_what_does_not_fit_is_one_paragraph(folder: Path) -> None:
    for args, message in {
        ("--shards", "pictures"): "Sensor 's2' is not in the shard set, which has ['rgb']",
        ("--shards", "shards", "--test-split", "val"): "has no split 'val'; it has {'test': 8, 'train': 32}",
    }.items():
        done = launch(folder, *args)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1
