"""The launcher on two ranks; tests/engine/test_fractions.py covers the rest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine.finetunes import finetune, write_config

REPOSITORY = Path(__file__).parents[2]
FAST = ("train.steps=4", "labels.val_share=0", "validation.resamples=0")


@pytest.mark.slow
def test_one_command_on_two_ranks_gives_runs_table_and_plot(tmp_path):
    path = write_config(tmp_path)
    launcher = str(Path(sys.executable).parent / "torchrun")
    command = [launcher, "--standalone", "--nproc-per-node", "2", "-m", "rspretrain.cli.label_fractions"]
    args = ("--fractions", "0.5", "--seeds", "1", "--methods", "pretrained", "slow: optim.lr=1e-9")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, "--config", str(path), *args, *FAST, f"run.dir={tmp_path}/a"],
        capture_output=True, text=True, timeout=200, cwd=REPOSITORY, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("[")] == [
        "[1/2] pretrained, 50 % of the labels, seed 3", "[2/2] slow, 50 % of the labels, seed 3",
    ]  # fmt: skip
    lines = done.stdout[done.stdout.index("ap_macro, percent") :].splitlines()
    assert [line.split("  ")[0] for line in lines[2:5]] == ["label fraction", "pretrained", "slow"]
    assert {one.suffix for one in (tmp_path / "a").glob("fractions.*")} == {".csv", ".json", ".png"}
    assert (tmp_path / "a/slow/0.5/3/export/classifier/model.safetensors").is_file()
    (point, _) = json.loads((tmp_path / "a/fractions.json").read_text())["points"]
    alone = finetune(path, *FAST, "labels.fraction=0.5", f"run.dir={tmp_path}/alone")
    assert point["mean"]["ap_macro"] == pytest.approx(alone["test"]["ap_macro"], abs=1e-3)
