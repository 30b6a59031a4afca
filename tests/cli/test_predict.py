"""`rspretrain predict` on shards and images, alone and under torchrun: table, map and messages."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.geotiff import noise, write_file, write_s1
from fakes.memory import CLASSES, PAIR_GROUPS, SCENE_GROUPS, memory_shards
from PIL import Image
from rasterio.warp import transform

from rspretrain.cli.predict import main
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.classifier_files import LabelSpec, export_classifier
from rspretrain.nn.classifiers import build_classifier
from rspretrain.nn.classifiers.linear import LinearSettings
from rspretrain.transforms.inputs import SensorInput, SensorSettings

REPOSITORY = Path(__file__).parents[2]
BANDS = {"s1": ("VV", "VH"), "s2": ("B02", "B08")}
torch.set_num_threads(1)


def export(
    folder: Path, bands: dict[str, tuple[str, ...]], groups, label_spec: LabelSpec, crop_px: int | None = None
) -> None:
    torch.manual_seed(0)
    settings = BackboneSettings(name="test_resnet")
    backbones = [create_backbone(settings, sensor, some, 16) for sensor, some in bands.items()]
    classifier = build_classifier(LinearSettings(), backbones, len(label_spec.classes)).eval()
    inputs = {sensor: SensorInput(sensor, SensorSettings(bands=some), groups) for sensor, some in bands.items()}
    export_classifier(classifier, LinearSettings(), inputs, label_spec, folder, {}, crop_px=crop_px)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers for two sensors and for pictures, and shard sets."""
    folder = tmp_path_factory.mktemp("predict")
    memory_shards(folder / "shards", samples=30)
    memory_shards(folder / "s2_shards", samples=10, groups=tuple(g for g in PAIR_GROUPS if g.sensor == "s2"))
    memory_shards(folder / "pictures", samples=10, groups=SCENE_GROUPS)
    export(folder / "pair", BANDS, PAIR_GROUPS, LabelSpec("all", CLASSES, multi=True))
    export(folder / "rgb", {"rgb": ("R", "G", "B")}, SCENE_GROUPS, LabelSpec("class", CLASSES, multi=False), crop_px=8)
    return folder


@pytest.fixture
def predict(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """`rspretrain predict` in this process, without its first line; returns the exit status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["rspretrain"])
    monkeypatch.setattr("rspretrain.cli.predict.announce", lambda text: None)
    return lambda *arguments: main([str(argument) for argument in arguments])


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_alone_and_under_torchrun(folder: Path, predict, tmp_path: Path, capsys) -> None:
    arguments = ("--classifier", "pair", "--shards", "shards", "--split", "test", "--batch-size", "4", "--score")
    assert predict(*arguments, "--out", tmp_path / "alone.csv") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "6 images in" in captured.out
    assert "scores of 6 labelled images, in percent: AP macro" in captured.out
    alone = table(tmp_path / "alone.csv")
    assert sorted(alone) == [f"patch-{number:05d}" for number in range(0, 30, 5)]
    footprints = json.loads((tmp_path / "alone.geojson").read_text())["features"]
    assert [feature["id"] for feature in footprints] == list(alone)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "rspretrain.cli.predict", *arguments, "--out", str(tmp_path / "two.csv")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predictions ") == 2
    two = table(tmp_path / "two.csv")
    assert list(two) == list(alone)
    for key, row in two.items():
        np.testing.assert_allclose(
            [float(row[name]) for name in CLASSES], [float(alone[key][name]) for name in CLASSES], atol=1e-6
        )


def test_a_sensor_that_the_shards_lack_is_reported(predict, tmp_path: Path, capsys) -> None:
    assert predict("--classifier", "pair", "--shards", "s2_shards", "--out", tmp_path / "a.csv") == 0
    captured = capsys.readouterr()
    assert captured.err == "warning: s2_shards has no s1; the classifier treats them as missing\n"
    assert len(table(tmp_path / "a.csv")) == 10


def test_a_filter_chooses(predict, tmp_path: Path) -> None:
    where = ("--shards", "shards", "--filter", "country == 'Finland'")
    assert predict("--classifier", "pair", *where, "--out", tmp_path / "a.csv") == 0
    assert set(table(tmp_path / "a.csv")) == {f"patch-{number:05d}" for number in range(1, 30, 2)}


def test_a_folder_of_pictures(predict, tmp_path: Path, capsys) -> None:
    """Pictures of several sizes; a broken one is reported and the others are labelled."""
    for number, size in enumerate(((30, 20), (9, 9), (16, 40))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"P{number}.png")
    (tmp_path / "q.jpg").write_bytes(b"no picture")
    assert predict("--classifier", "rgb", "--images", tmp_path, "--out", tmp_path / "out.csv") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("left out: q.jpg: ")
    assert captured.err.count("\n") == 1
    rows = table(tmp_path / "out.csv")
    assert list(rows) == ["p0", "p1", "p2"]
    for row in rows.values():
        shares = {name: float(row[name]) for name in CLASSES}
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-6)
        assert row["labels"] == max(shares, key=shares.get)
    assert not (tmp_path / "out.geojson").exists()


def test_windows_of_scenes_of_two_sensors(predict, tmp_path: Path, capsys) -> None:
    scene = noise(2, 48, 60)
    scene[:, :16, :16] = 0
    write_file(tmp_path / "s2/scene.tif", scene, names=("B08", "B02"), nodata=0)
    write_s1(tmp_path / "s1/scene.tif")
    where = ("--images", f"s2={tmp_path}/s2", f"s1={tmp_path}/s1", "--window", 24, "--option", "edge=drop")
    assert predict("--classifier", "pair", *where, "--out", tmp_path / "map.csv") == 0
    captured = capsys.readouterr()
    assert "3 images in" in captured.out
    assert "; 1 left out by --option" in captured.out  # a window without data
    assert captured.err == ""
    features = json.loads((tmp_path / "map.geojson").read_text())["features"]
    assert [feature["id"] for feature in features] == ["scene_0_24", "scene_24_0", "scene_24_24"]
    corner = features[1]["geometry"]["coordinates"][0][0]  # the lower left corner of the lower left window
    (lon,), (lat,) = transform("EPSG:32633", "EPSG:4326", [500_000], [5_000_000 - 480])
    assert corner == pytest.approx([lon, lat], abs=1e-8)


def test_mismatches_are_one_paragraph(predict, tmp_path: Path, capsys) -> None:
    out = ("--out", tmp_path / "a.csv")
    (tmp_path / "empty").mkdir()
    for arguments, message in {
        (
            "--classifier",
            "shards",
            "--shards",
            "shards",
        ): "is not an exported classifier: it has no config.json. Expected",
        (
            "--classifier",
            "pair",
            "--shards",
            "pictures",
        ): "pictures has the sensors ['rgb'], the classifier expects",
        ("--classifier", "rgb", "--shards", "shards"): "the classifier expects at least one of ['rgb']. Use images",
        (
            "--classifier",
            "pair",
            "--shards",
            "shards",
            "--split",
            "val",
        ): "has no split 'val'; its splits are {'test': 6",
        ("--classifier", "pair", "--images", tmp_path): "but the classifier takes the sensors ['s1', 's2']; expected",
        ("--classifier", "rgb", "--images", tmp_path / "empty"): "empty holds no image of rgb, expected .jpg",
    }.items():
        assert predict(*arguments, *out) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_scores_want_the_same_classes_in_the_same_order(folder: Path, predict, tmp_path: Path, capsys) -> None:
    export(tmp_path / "other", BANDS, PAIR_GROUPS, LabelSpec("all", CLASSES[::-1], multi=True))
    arguments = ("--classifier", tmp_path / "other", "--shards", "shards", "--out", tmp_path / "a.csv")
    assert predict(*arguments, "--score") == 2
    assert (
        "The classifier predicts ['water', 'forest', 'field'] (several per image) as 'all'; shards has 'class': "
        "['field', 'forest', 'water'] (one per image), 'all': ['field', 'forest', 'water'] (several per image). "
        "Expected the same classes in the same order: use shards with"
    ) in capsys.readouterr().err
    assert predict(*arguments) == 0


def test_flags_of_the_other_source_are_refused(predict, tmp_path: Path, capsys) -> None:
    for arguments, message in {
        ("--shards", "x", "--window", "8", "--out", "a.csv"): "--window is for images only; remove it",
        ("--images", "x", "--score", "--out", "a.csv"): "--score is for shard sets only; remove it",
        ("--shards", "x", "--out", "a.json"): "--out is a.json, expected a name that ends in .csv",
        ("--shards", "x", "--out", "a.csv", "--batch-size", "0"): "--batch-size is 0, expected 1 at least",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            predict("--classifier", "pair", *arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
