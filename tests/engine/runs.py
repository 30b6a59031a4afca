"""A tiny run on a generated shard set, in this process or with the real launcher in a subprocess."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from fakes.memory import memory_shards

from rspretrain import config
from rspretrain.engine.job import Job, prepare
from rspretrain.world import World

ROOT = Path(__file__).parents[2]
# The default port of launchers is 29500; parallel test processes need different ports.
PORT = str(29500 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))
DEEPSPEED = ("deepspeed", "--num_accelerators", "2", "--master_port", PORT)
TORCHRUN = ("torchrun", "--nproc-per-node", "2", "--master-port", PORT)
CONFIG = """
data: {window: 2, ledger: true}
sensors: {s1: {bands: [VV, VH], normalise: bigearthnet}, s2: {bands: [B02, B03, B04], normalise: bigearthnet}}
backbone: {name: test_resnet, drop_path: 0.1}
objective: {name: dual_simclr, crop_px: 8}
strategy: {precision: fp32}
optim: {lr: 1e-2, lr_reference_batch: null, warmup_epochs: 1}
train: {global_batch: 8, epochs: 3, checkpoint_every: 7}
watch: {every: 1, wandb: off}
"""
# An objective with teachers in its state.
BYOL = "objective={name: byol, px: 8, momentum: 0.9, hidden: 16, projection: 8}"


def write_config(folder: Path, samples: int = 64) -> Path:
    """Write a shard set and its configuration to `folder`."""
    memory_shards(folder / "shards", samples=samples)
    path = folder / "run.yaml"
    path.write_text(
        f"run: {{dir: {folder}/run, seed: 3}}{CONFIG}".replace("data: {", f"data: {{shards: {folder}/shards, ")
    )
    return path


def job(path: Path, *overrides: str) -> Job:
    return prepare(config.load(path, overrides), World(0, 1, 0, torch.device("cpu")), deepspeed_launcher=False)


def command(path: Path, *arguments: str, launcher: tuple[str, ...] = (sys.executable,)) -> list[str]:
    return [*launcher, str(ROOT / "launchers" / "pretrain.py"), "--config", str(path), *arguments]


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def launch(
    path: Path, *arguments: str, launcher: tuple[str, ...] = (sys.executable,)
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(path, *arguments, launcher=launcher),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def interrupt(path: Path, number: signal.Signals, after_step: int, *arguments: str) -> int:
    """Start the launcher and send it a signal after a step; returns its exit status."""
    metrics = path.parent / "run" / "metrics.jsonl"
    process = subprocess.Popen(
        command(path, *arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline and last_step(metrics) < after_step:
        time.sleep(0.002)
    process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


def last_step(metrics: Path) -> int:
    steps = [line["step"] for line in whole_lines(metrics)] if metrics.exists() else []
    return max(steps, default=0)


def whole_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def losses(run_dir: Path) -> list[tuple[object, ...]]:
    """The metrics that must be bit-equal in a resumed run: step, loss, gradient norm and rate of every line."""
    names = ("step", "train/loss", "train/grad_norm", "train/lr", "health/positive_cosine")
    return [tuple(line[name] for name in names) for line in whole_lines(run_dir / "metrics.jsonl")]
