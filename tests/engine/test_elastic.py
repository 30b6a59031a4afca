"""Exactly once in real runs: ranks under torchrun, killed at random and resumed with another world size."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from engine.runs import command, environment, last_step, launch, whole_lines, write_config


def torchrun(ranks: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--no-python")


def start(path, ranks, *arguments):
    launcher = (*torchrun(ranks), sys.executable) if ranks > 1 else (sys.executable,)
    return subprocess.Popen(
        command(path, *arguments, launcher=launcher),
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def kill_after(process, metrics, step, timeout_s=100):
    """Kill every process of the run, launcher and ranks, once `step` is written."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and last_step(metrics) < step and time.monotonic() < deadline:
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_changing_world_sizes_do_not_change_the_ledger(tmp_path):
    path = write_config(tmp_path)
    run = tmp_path / "run"
    settings = ("strategy.name=ddp", "train.checkpoint_every=3")
    assert launch(path, "train.checkpoint_every=3").returncode == 0
    uninterrupted = whole_lines(run / "ledger.jsonl")
    assert [line["step"] for line in uninterrupted] == list(range(1, 25))
    shutil.rmtree(run)
    rng = np.random.default_rng()
    stops = sorted(rng.choice(np.arange(4, 22), 2, replace=False).tolist())
    for number, (ranks, stop) in enumerate(zip((2, 1), stops, strict=True)):
        alone = ("train.checkpoint_every=3",) if ranks == 1 else settings
        kill_after(start(path, ranks, *alone, *(("--resume",) if number else ())), run / "metrics.jsonl", stop)
    process = start(path, 4, *settings, "--resume")
    assert process.wait(timeout=150) == 0
    ledger = whole_lines(run / "ledger.jsonl")
    assert ledger == uninterrupted, f"killed at {stops}"
