"""The runs of the training benchmark: the product's job, strategy and metric logger on shards of random pixels.

The nine cases are the eight objectives, with SimCLR both on RGB and on Sentinel-2's twelve bands.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from rspretrain import config
from rspretrain.archives.base import Archive, Entry
from rspretrain.batch import Batch
from rspretrain.engine.job import Job, prepare, seed_torch
from rspretrain.engine.metric_logger import MetricLogger
from rspretrain.observe.progress import ProgressBar
from rspretrain.observe.sinks import Sinks
from rspretrain.patch import Fault, Patch
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.strategies import base as strategies
from rspretrain.strategies import build_strategy
from rspretrain.strategies.base import StepReport
from rspretrain.world import World

BANDS = {
    "s2_10m": ("B02", "B03", "B04", "B08"),
    "s2_20m": ("B05", "B06", "B07", "B8A", "B11", "B12"),
    "s2_60m": ("B01", "B09"),
}
S1 = {"bands": ["VV", "VH"]}
S2 = {"bands": [band for bands in BANDS.values() for band in bands]}
RGB = {"rgb": {"bands": ["R", "G", "B"], "normalise": "imagenet"}}
CPU = torch.device("cpu")
SCENE_PX, PATCH_PX = 256, 120  # UC-Merced's and BigEarthNet's


class Noise(Archive):
    """Random pixels in the layouts of UC-Merced and BigEarthNet-MM."""

    name = "noise"
    metadata_bytes = 512
    groups = (
        Group("rgb", "rgb", ("R", "G", "B"), "uint8", (SCENE_PX, SCENE_PX), 0.3, "grey"),
        Group("s1_10m", "s1", ("VV", "VH"), "float32", (PATCH_PX, PATCH_PX), 10.0, "db"),
        *(
            Group(name, "s2", bands, "uint16", (PATCH_PX // div,) * 2, 10.0 * div, "dn")
            for (name, bands), div in zip(BANDS.items(), (1, 2, 6), strict=True)
        ),
    )

    def __init__(self, samples: int) -> None:
        self.samples, self.nomenclatures = samples, {}

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        return [Entry(f"noise-{i:05d}", f"noise {i}", i) for i in range(self.samples)], []

    def read(self, entry: Entry) -> Patch:
        rng, images = np.random.default_rng([3, entry.source]), {}
        for group in self.groups:
            shape = (len(group.bands), *group.shape)
            if group.dtype == "float32":
                images[group.name] = rng.normal(-12.0, 4.0, shape).astype(np.float32)
            else:
                images[group.name] = rng.integers(0, 255 if group.dtype == "uint8" else 5000, shape, group.dtype)
        return Patch(entry.key, images, {}, "train", None, None, {})


@dataclass(frozen=True)
class Case:
    """One row: an objective, its sensors, and whether it requires a CNN."""

    name: str
    sensors: dict[str, Any] = field(default_factory=lambda: RGB)
    objective: dict[str, Any] = field(default_factory=dict)
    cnn: bool = False

    def tree(self, px: int) -> dict[str, Any]:
        """The section `objective` of a configuration."""
        method = self.name.partition(" ")[0]
        window = {"crop_px": 96, "px": px} if method in ("dual_simclr", "mma") else {"px": px}
        return {"name": method, **window, **self.objective}


BOTH = {"s1": S1, "s2": S2}
CASES = {
    case.name: case
    for case in (
        Case("simclr", objective={"sensor": "rgb"}),
        Case("simclr s2", {"s2": S2}, {"sensor": "s2"}),
        Case("dual_simclr", BOTH),
        Case("mma", BOTH, {"channels": 128}, cnn=True),
        Case("byol"),
        Case("moco_v3"),
        Case("dino", objective={"outputs": 8192}),  # configs/pretrain/dino_ucmerced.yaml
        Case("mae"),
        Case("gsc_mim"),
    )
}


@dataclass(frozen=True)
class Setting:
    """Settings that all rows of a run share."""

    device: torch.device = CPU
    precision: str = "fp32"
    compile: bool = False
    backbone: str = "vit_sct"
    cnn: str = "resnet18"
    px: int = 120
    batch: int = 16
    threads: int = 1  # of the loader
    clock: str = "wall"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def now(self) -> float:
        """Seconds of the clock. Thread time excludes the time of other processes."""
        return time.thread_time() if self.clock == "cpu" else time.perf_counter()

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def build(folder: Path, samples: int) -> Path:
    """Build shards with this number of samples in a subfolder."""
    build_shards(Noise(samples), folder / "shards", samples_per_shard=32, workers=1)
    return folder / "shards"


def make_job(case: Case, setting: Setting, shards: Path, run: Path, clip_norm: float | None = 1.0) -> Job:
    tree = {
        "run": {"dir": run, "seed": 0},
        "data": {"shards": shards, "verify": False, "threads": setting.threads},
        "sensors": case.sensors,
        "backbone": {"name": setting.cnn if case.cnn else setting.backbone},
        "objective": case.tree(setting.px),
        "strategy": {"name": "single", "precision": setting.precision, "compile": setting.compile},
        "optim": {"lr": 1e-4, "warmup_epochs": 0, "clip_norm": clip_norm},
        "train": {"global_batch": setting.batch, "steps": 10_000, "checkpoint_minutes": None},
        "watch": {"wandb": "off", "every": 1},
    }
    world = World(0, 1, 0, setting.device)
    return prepare(config.parse(tree, []), world, deepspeed_launcher=False)


class Run:
    """A running job, as in engine/trainer.py: steps and lines of metrics."""

    def __init__(self, job: Job, setting: Setting) -> None:
        self.job, self.setting = job, setting
        # Start after two epochs, when no parameter is frozen any more.
        self.step = 2 * job.loader.steps_per_epoch
        settings = job.settings
        self.strategy = build_strategy(
            settings.strategy, job.world, job.objective, settings.optim, job.objective.teachers()
        )
        settings.run.dir.mkdir(parents=True)
        self._stack = ExitStack()
        sinks = Sinks(settings.run.dir, settings.watch, settings.model_dump(mode="json"), True, None)
        self._stack.callback(sinks.close, {})
        progress = ProgressBar(job.total_steps, self.step, False)
        self.metric_logger = MetricLogger(job, self.strategy, sinks, progress, self.step, lambda line: None)
        self.batches = job.loader.batches(self.step)

    def close(self) -> None:
        self.batches.close()  # type: ignore[attr-defined]
        self._stack.close()

    def take(self, batch: Batch, watched: bool = False) -> StepReport:
        """Take one step and wait for the device; `watched`: a step with health metrics."""
        lr = self.job.lr(self.step)
        seed_torch(0, self.step, 0)
        self.job.objective.prepare(self.job.progress(self.step))
        self.job.objective.compute_health = watched
        report = self.strategy.train_step(batch, lr, self.job.objective.momentum)
        self.step += 1
        self.setting.wait()
        return report

    def line(self, batch: Batch, report: StepReport) -> None:
        """Write the line of metrics of the last step."""
        self.metric_logger.log_step(self.step, batch, report, self.job.lr(self.step))

    def as_it_runs(self, steps: int) -> dict[str, float]:
        """Seconds per step with loading, and the fraction of time spent waiting for data."""
        waited, started = self.job.loader.wait_s, time.perf_counter()
        for _ in range(steps):
            batch = next(self.batches)
            self.take(batch)
        elapsed = time.perf_counter() - started
        return {"step_s": elapsed / steps, "data_wait_share": (self.job.loader.wait_s - waited) / elapsed}


PARTS = ("views", "loss", "health", "buffers", "clipping", "optimizer", "ema")
# Losses count with their forward only: their backward is part of that of the networks.
_LOSSES = (
    "nt_xent", "cosine_distance", "info_nce", "dino_loss", "cross_entropy", "masked_mse", "standardise", "patchify",
    "directions",
)  # fmt: skip
_HEALTH = ("view_health", "teacher_student_health", "teacher_health", "feature_std", "effective_rank", "worst_values")


class Parts:
    """Seconds that a step spends in its parts, measured around their functions."""

    def __init__(self, run: Run) -> None:
        self._run, self.seconds = run, dict.fromkeys(PARTS, 0.0)
        self._open: list[str] = []

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The time of a nested part counts for the inner part only."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._run.setting.wait()
            started = self._run.setting.now()
            self._open.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._run.setting.wait()
                self._open.pop()
                elapsed = self._run.setting.now() - started
                self.seconds[part] += elapsed
                if self._open:
                    self.seconds[self._open[-1]] -= elapsed

        return timed

    @contextmanager
    def watched(self) -> Iterator[None]:
        objective, strategy = self._run.job.objective, self._run.strategy
        module = sys.modules[type(objective).__module__]
        functions: list[tuple[str, object, str]] = [
            *(("views", objective, name) for name in ("mask", "masks") if hasattr(objective, name)),
            ("views", getattr(objective, "sensor_views", None) or objective.views, "forward"),
            *(("health", module, name) for name in _HEALTH if hasattr(module, name)),
            *(("loss", module, name) for name in _LOSSES if hasattr(module, name)),
            ("buffers", strategy, "_copy_buffers"),
            ("clipping", strategy, "_clip_and_step"),
            ("optimizer", strategy.optimizer, "step"),
            ("ema", strategies, "ema_update_"),
        ]
        self.seconds = dict.fromkeys(PARTS, 0.0)
        with ExitStack() as stack:
            for part, owner, name in functions:
                stack.enter_context(patch.object(owner, name, self._timed(part, getattr(owner, name))))
            yield
