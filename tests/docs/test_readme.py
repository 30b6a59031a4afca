"""The Python of the README and of docs/exports.md runs, on a small shard set and an untrained backbone."""

import re
from pathlib import Path

import pytest
import torch
from fakes.bigearthnet_v2 import write_bigearthnet_v2

from docs.pages import BLOCK, DOCUMENTS, ROOT, blocks
from rspretrain.archives.bigearthnet_v2 import BigEarthNetV2
from rspretrain.cli.main import COMMANDS
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.weights import export_backbone
from rspretrain.shardset.building.build import build_shards
from rspretrain.transforms.normalise import Normalise

README = DOCUMENTS["README.md"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`data/demo/shards` and `runs/demo/export/s2`."""
    root = tmp_path_factory.mktemp("readme")
    archive = BigEarthNetV2(write_bigearthnet_v2(root / "archive", pairs=24), include_snow_cloud=True)
    build_shards(archive, root / "data/demo/shards")
    bands = ("B02", "B03", "B04", "B08")
    backbone = create_backbone(BackboneSettings(name="resnet18"), "s2", bands, 32)
    export_backbone(backbone, {"s2": Normalise("bigearthnet", bands, "dn")}, root / "runs/demo/export/s2", {})
    return root


def test_python_of_the_readme(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (text,) = [body for language, body in BLOCK.findall(README) if language == "python"]
    names: dict = {}
    exec(text, names)
    assert names["images"].shape == (8, 4, 120, 120)
    assert names["labels"].shape == (8, 19)
    assert len(names["summer"]) < len(names["shards"])
    assert capsys.readouterr().out.splitlines()[-1] == "512"
    assert 10 <= text.count("\n") <= 20


def test_python_of_the_page_on_exports(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names: dict = {}
    for text in blocks("exports", "python")[:3]:  # the fourth block needs another build of torchvision
        exec(text, names)
    assert "('B02', " in capsys.readouterr().out
    images = torch.zeros(1, 4, 32, 32)
    torch.testing.assert_close(names["model"].eval()(images), names["backbone"].model.eval()(images))


def test_the_readme_is_short_and_has_its_picture():
    assert README.count("\n") <= 145
    assert (ROOT / "docs/images/overview.svg").read_text().startswith("<svg")


def test_the_table_of_commands_is_complete():
    rows = re.findall(r"^\| ((?:`[a-z-]+` ?)+)\|", DOCUMENTS["docs/commands.md"], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)} == set(COMMANDS)
