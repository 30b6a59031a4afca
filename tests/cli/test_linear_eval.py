import json

import pytest
import torch
from fakes.memory import memory_shards

from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.weights import export_backbone
from rspretrain.shardset.index import open_shards
from rspretrain.transforms.normalise import Normalise

BANDS = ("B02", "B08")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shards, and the export of a student."""
    folder = tmp_path_factory.mktemp("linear_eval")
    memory_shards(folder / "shards", samples=60)
    args = {"patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2}
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSettings(name="vit_tiny_patch16_224", args=args), "s2", BANDS, 12)
    provenance = {"objective": {"name": "gsc_mim", "export": "student"}}
    export_backbone(backbone, {"s2": Normalise("fixed", BANDS, "dn")}, folder / "export/s2", provenance)
    return folder


@pytest.fixture
def launch(folder, command, monkeypatch):
    """The command in this process: exit status, standard output, errors."""

    def launched(*args):
        monkeypatch.chdir(folder)
        done = command("linear-eval", "--backbone", "export/s2", *args)
        return done.returncode, done.stdout, done.stderr

    return launched


def test_a_table_and_the_exact_images(folder, launch):
    status, output, errors = launch("--shards", "shards", "--random-baseline", "--draws", "3")
    assert (status, errors) == (0, "")
    assert "trained on 3 images, 0.01 of every class, tested on 12; 3 draws" in output
    assert (
        "s2 backbone, student (the protocol uses the teacher: rspretrain export --whose teacher); features cls4"
        in output
    )
    written = json.loads((folder / "export/linear_eval.json").read_text())
    assert written["network"] == "student"
    result = written["results"]["pretrained"]
    line = next(line for line in output.splitlines() if line.startswith("pretrained"))
    assert line.split()[1] == f"{100 * result['top1_mean']:.1f}"
    assert len(line.split()) == 4 + 3
    train = set(open_shards(folder / "shards").keys(open_shards(folder / "shards").split_rows("train")))
    for draw in result["draws"]:
        assert len(draw["keys"]) == 3
        assert set(draw["keys"]) <= train


def test_several_labels_are_one_paragraph(launch):
    status, _, errors = launch("--shards", "shards", "--nomenclature", "all")
    assert status == 2
    assert errors.startswith("rspretrain linear-eval: error: labels.per_class: got true for 'all', which has several")
    assert errors.count("\n") == 1
