"""The launcher in a separate process: output, resuming after a kill, and several ranks."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine.finetunes import results, write_config
from engine.runs import DEEPSPEED, environment, last_step, whole_lines

from rspretrain.nn.classifier_files import load_classifier

MODULE, PYTHON = "rspretrain.cli.finetune", (sys.executable, "-m")


def launch(path: Path, *arguments: str, launcher: tuple[str, ...] = PYTHON) -> subprocess.CompletedProcess:
    command = [*launcher, MODULE, "--config", str(path), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_a_run_from_the_command_line_and_one_that_is_killed(tmp_path):
    path = write_config(tmp_path)
    settings = ("train.epochs=6", "train.checkpoint_every=5", "watch.every=1")
    whole = launch(path, *settings)
    assert whole.returncode == 0, whole.stderr
    assert "trained on 64 images, weights of step" in whole.stdout
    assert "AP macro" in whole.stdout
    assert "forest" in whole.stdout
    classifier, contract = load_classifier(tmp_path / "run/export/classifier")
    assert contract["classes"] == ["field", "forest", "water"]
    assert contract["provenance"]["backbones"] == {"s1": "random", "s2": "random"}
    assert classifier.num_classes == 3

    killed = tmp_path / "killed"
    command = [*PYTHON, MODULE, "--config", str(path), *settings, f"run.dir={killed}"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and last_step(killed / "metrics.jsonl") < 19:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "results.json").exists()
    again = launch(path, *settings, f"run.dir={killed}", "--resume")
    assert again.returncode == 0, again.stderr
    assert results(killed) == results(tmp_path / "run")
    assert whole_lines(killed / "ledger.jsonl") == whole_lines(tmp_path / "run/ledger.jsonl")
    weights = "export/classifier/model.safetensors"
    one, other = (
        load_classifier(folder / "export/classifier")[0].state_dict() for folder in (killed, tmp_path / "run")
    )
    assert all(value.equal(other[name]) for name, value in one.items()), weights


@pytest.mark.slow
def test_under_deepspeed_on_two_ranks(tmp_path):
    path = write_config(tmp_path)
    found = launch(path, "tune.mode=linear", launcher=(*DEEPSPEED, "--module"))
    assert found.returncode == 0, found.stdout + found.stderr
    alone = launch(path, "tune.mode=linear", f"run.dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    ours, theirs = results(tmp_path / "alone")["test"], results(tmp_path / "run")["test"]
    assert theirs["ap_macro"] == pytest.approx(ours["ap_macro"], abs=1e-3)
    assert theirs["support_per_class"] == ours["support_per_class"]


def test_invalid_configurations_are_one_paragraph(tmp_path, command):
    path = write_config(tmp_path, samples=20)
    plan = command("finetune", "--config", path, "--dry-run")
    assert plan.returncode == 0
    assert "classifier" in plan.stdout
    assert not (tmp_path / "run").exists()
    for wrong, message in (
        ("labels.nomenclatur=all", "Did you mean 'labels.nomenclature'?"),
        ("backbone.s2=nowhere", "nowhere is not an exported backbone"),
    ):
        refused = command("finetune", "--config", path, wrong)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1
