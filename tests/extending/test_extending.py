"""docs/extending.md runs as it is: a package outside of rspretrain with a part of every kind, and its commands."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text()
AGAIN = (
    "rspretrain pretrain --config pretrain.yaml --resume train.steps=4",
    "rspretrain export --run runs/mine --step 3",
)
# In one process, because importing torch for each of eight commands would take most of the time.
RUN = """
import shlex, sys
from rspretrain.cli.main import main
for line in sys.stdin.read().splitlines():
    program, *arguments = shlex.split(line)
    if program == "python":
        __import__(arguments[1])
    elif status := main(arguments):
        sys.exit(f"{line}: exit status {status}")
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(("rspretrain ", "python "))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, and what its commands made of them."""
    folder = tmp_path_factory.mktemp("extending")
    (folder / "mypackage").mkdir()
    for text in (*blocks("python"), *blocks("yaml")):
        (folder / text.split("\n")[0].removeprefix("# ")).write_text(text)
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}:{root}", "OMP_NUM_THREADS": "1"},
        input="\n".join([*commands(), *AGAIN]),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
    return folder


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_page_has_all_five_and_the_commands_that_use_them() -> None:
    used = " ".join([*commands(), *blocks("yaml")])
    classes = re.findall(r"^class (\w+)\((?!\w*Settings)", "".join(blocks("python")), re.MULTILINE)
    assert classes == ["NpyFolder", "SimSiam", "Noisy", "MlpClassifier", "Margin"]
    assert [name for name in classes if f":{name}" not in used] == []


def test_the_archive_is_built(folder: Path) -> None:
    manifest = json.loads((folder / "data/mine/manifest.json").read_text())
    assert manifest["archive"] == "npy"
    assert sum(shard["samples"] for shard in manifest["shards"]) == 60


def test_the_objective_trains_and_its_import_path_is_kept(folder: Path) -> None:
    taken = lines(folder / "runs/mine")
    assert [line["step"] for line in taken] == [1, 3, 4]  # resumed after 3
    assert (folder / "runs/mine/export_step_00000003/rgb/model.safetensors").is_file()
    assert 0 < taken[-1]["loss/simsiam"] < 2
    saved = yaml.safe_load((folder / "runs/mine/config.yaml").read_text())
    assert saved["objective"]["name"] == "mypackage.objective:SimSiam"
    exported = json.loads((folder / "runs/mine/export/rgb/config.json").read_text())
    assert exported["rspretrain"]["provenance"]["objective"] == saved["objective"]


def test_the_strategy_adds_its_noise_and_is_named_in_the_checkpoint(folder: Path) -> None:
    quiet, noisy = (weights(folder / f"runs/{name}/export/rgb/model.safetensors") for name in ("mine", "noisy"))
    assert quiet.keys() == noisy.keys()
    assert any((quiet[name] != noisy[name]).any() for name in quiet)
    (state,) = (folder / "runs/noisy/checkpoints").glob("step_*/state.json")
    assert json.loads(state.read_text())["strategy"] == "mypackage.strategy:Noisy"


def weights(path: Path) -> dict[str, object]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def test_the_classifier_is_fine_tuned_and_predicts(folder: Path) -> None:
    contract = json.loads((folder / "runs/mlp/export/classifier/config.json").read_text())["rspretrain_classifier"]
    assert contract["classifier"] == {"name": "mypackage.classifier:MlpClassifier", "hidden": 32}
    with (folder / "labels.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12


def test_the_query_chooses_the_images_of_the_next_round(folder: Path) -> None:
    found = json.loads((folder / "runs/margin/active.json").read_text())
    assert found["query"] == "mypackage.query:Margin"
    assert [point["labels"] for point in found["rounds"]] == [8, 12]
