"""The launcher as a person starts it; engine/fractions.py has tests of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
from engine.finetunes import write_config

REPOSITORY = Path(__file__).parents[2]


def launch(path, *args):
    command = [sys.executable, str(REPOSITORY / "launchers/label_fractions.py"), "--config", str(path), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=REPOSITORY)


@pytest.mark.slow
def test_one_command_gives_runs_table_and_plot(tmp_path):
    path = write_config(tmp_path)
    args = ("--fractions", "0.5", "--seeds", "1", "--methods", "pretrained", "slow: optim.lr=1e-9")
    overrides = ("train.steps=2", "labels.val_share=0", "validation.resamples=0", f"run.dir={tmp_path}/a")
    done = launch(path, *args, *overrides)  # overrides after the methods, where they are easily written
    assert done.returncode == 0, done.stderr
    assert "[2/2] slow, 50 % of the labels, seed 3" in done.stdout
    lines = done.stdout[done.stdout.index("ap_macro, percent") :].splitlines()
    assert [line.split("  ")[0] for line in lines[2:5]] == ["share of labels", "pretrained", "slow"]
    assert {one.name for one in (tmp_path / "a").glob("fractions.*")} == {
        "fractions.csv", "fractions.json", "fractions.png",
    }  # fmt: skip
    assert (tmp_path / "a/slow/0.5/3/export/classifier/model.safetensors").is_file()
