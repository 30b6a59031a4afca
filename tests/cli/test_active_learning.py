"""Active learning from the command line: interruption, labels by hand, and curves of several runs."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine.actives import fill, state, write_config
from engine.runs import environment

SMALL = "budget={val: 4, test: 4, first: 4, per_round: 2, rounds: 1}"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("launcher"))


@pytest.fixture
def main(command):
    """Run a command in this process; exit status, standard output, errors."""

    def run(name, *arguments):
        done = command(name, *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


def test_people_label_from_the_command_line(path, tmp_path, main):
    arguments = ("--config", path, SMALL, "oracle=csv", f"run.dir={tmp_path}/run")
    status, said, _ = main("active-learning", *arguments, "--dry-run")
    assert status == 0
    assert "labels                      4, then 1 x 2; oracle csv" in said
    assert not (tmp_path / "run").exists()

    status, said, _ = main("active-learning", *arguments)
    first = tmp_path / "run/to_label/round_00/labels.csv"
    assert status == 0
    assert said.splitlines()[-3:] == [
        "Labels are needed. Look at the images beside each table, fill in its column `labels` and save it:",
        f"  {first}   (classes and rules: {first.parent}/README.txt)",
        "Then run the same command again with --resume.",
    ]
    empty = first.read_bytes()
    key = empty.decode("utf-8-sig").splitlines()[1].split(",")[0]
    fill(first, path.parent / "shards", but={key: "Forrest"})
    status, said, error = main("active-learning", *arguments, "--resume")
    assert (status, said.startswith("Precision:"), said.count("\n")) == (2, True, 1)
    assert error.startswith(
        f"rspretrain active-learning: error: {first} has 1 faults:\n"
        f"  row 2 ({key}): unknown label 'forrest' (nearest: forest)\n"
    )
    first.write_bytes(empty)
    fill(first, path.parent / "shards")
    status, said, _ = main("active-learning", *arguments, "--resume")
    assert status == 0
    assert "    round  labels" not in said.splitlines()[0]
    assert "round_01/labels.csv" in said
    fill(tmp_path / "run/to_label/round_01/labels.csv", path.parent / "shards")
    status, said, _ = main("active-learning", *arguments, "--resume")
    assert status == 0
    results = json.loads((tmp_path / "run/active.json").read_text())
    assert f"{1:>7}{6:>8}{100 * results['rounds'][1]['f1_micro']:13.1f}" in said
    assert f"classifier   {tmp_path}/run/rounds/01/export/classifier" in said
    assert (tmp_path / "run/rounds/01/export/classifier/model.safetensors").exists()


def test_invalid_configurations_are_one_paragraph_and_status_2(path, tmp_path, main):
    status, said, error = main("active-learning", "--config", path, "budget.rounds=50", f"run.dir={tmp_path}/run")
    assert (status, said, error.count("\n")) == (2, "", 1)
    assert error.startswith(
        "rspretrain active-learning: error: A budget of 104 labels (4 and 50 rounds of 2) got a pool "
        "of 42 images; expected at least 104"
    )
    status, _, error = main("active-learning", "--config", path, "buget.rounds=5")
    assert (status, error.strip().endswith("Did you mean 'budget'?")) == (2, True)


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rspretrain.cli.active_learning", "--config", str(path), *arguments]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_stopped_loop_continues_and_two_loops_are_one_curve(path, tmp_path, main):
    settings = ("train.epochs=60", "optim.lr=1e-4", "validation.every_epochs=60", SMALL)
    process = start(path, *settings, f"run.dir={tmp_path}/a")
    metrics, deadline = tmp_path / "a/rounds/01/metrics.jsonl", time.monotonic() + 200
    while process.poll() is None and not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "Stopped by a signal with 1 of 2 rounds complete; continue with --resume." in said
    status, said, _ = main("active-learning", "--config", path, *settings, f"run.dir={tmp_path}/a", "--resume")
    assert status == 0
    assert "Continuing after round 0 of 1." in said
    status, _, _ = main("active-learning", "--config", path, *settings, f"run.dir={tmp_path}/b")
    assert state(tmp_path / "a") == state(tmp_path / "b")
    random = ("query.name=random", f"run.dir={tmp_path}/c")
    assert main("active-learning", "--config", path, *settings, *random)[0] == 0

    runs, png, table = [tmp_path / name for name in "abc"], tmp_path / "curve.png", tmp_path / "curve.csv"
    status, said, _ = main("curves", *runs, "--png", png, "--csv", table)
    assert status == 0
    assert "  mge                         F1 micro" in said
    assert "above random, 2 seeds" in said
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert [line.split(",")[:3] for line in table.read_text().splitlines()[1:]] == [
        ["mge", "4", "2"], ["mge", "6", "2"], ["random", "4", "1"], ["random", "6", "1"],
    ]  # fmt: skip
    status, _, error = main("curves", tmp_path)
    assert (status, error.count("\n")) == (2, 1)
    assert "has no readable active.json (FileNotFoundError)" in error
