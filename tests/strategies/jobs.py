"""Every objective as a small job on shards that look like land: what law 5 is tried on beside the toy.

The networks are small ViTs (LayerNorm), and heads have GELU for ReLU. A ReLU whose input is within rounding of 0 has
either gradient: many of 48 runs of BYOL with wide heads on two ranks parted by 1e-4 to 1e-2 for it; of 24 with
GELU none by more than 1.1e-5. BatchNorm in the backbone amplifies the last bits, too (ResNet-18, 20 steps: 0.2 % in
loss). In float64 both agree to 1e-9, which tests/objectives shows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes.memory import MemoryArchive
from torch import Tensor, nn

from rspretrain import config, world
from rspretrain.batch import Batch
from rspretrain.engine.job import Job, prepare
from rspretrain.nn.backbones import Backbone
from rspretrain.sensors import Group
from rspretrain.shardset.build import build_shards
from rspretrain.strategies import Strategy, build_strategy

STEPS = 20
GROUPS = (
    Group("s1_10m", "s1", ("VV", "VH"), "float32", (24, 24), 10.0, "db"),
    Group("s2_10m", "s2", ("B02", "B03", "B04", "B08"), "uint16", (24, 24), 10.0, "dn"),
    Group("s2_20m", "s2", ("B05", "B06", "B07", "B8A", "B11", "B12"), "uint16", (12, 12), 20.0, "dn"),
)
SENSORS = {
    "s1": {"bands": ["VV", "VH"], "normalise": "bigearthnet"},
    "s2": {"bands": ["B02", "B03", "B08", "B11"], "normalise": "bigearthnet"},
}
VIT = {"name": "vit_sct", "args": {"depth": 2, "embed_dim": 32, "num_heads": 4, "patch_size": 6}}
POOLED = {"name": "vit_sct", "args": {**VIT["args"], "global_pool": "avg"}}


@dataclass(frozen=True)
class Case:
    objective: dict[str, Any]
    optim: dict[str, Any] = field(default_factory=dict)
    sensors: tuple[str, ...] = ("s1", "s2")
    backbone: dict[str, Any] = field(default_factory=lambda: VIT)
    tolerance: float = 1e-5


TAUGHT = {"px": 24, "fusion": "early", "momentum": 0.9}
PROTOTYPES = {"hidden": 64, "bottleneck": 16, "outputs": 64, "temperature_epochs": 3}
GSC = {"name": "gsc_mim", **TAUGHT, **PROTOTYPES}
FAST = {"lr": 1e-3, "eps": 1e-4}
SLOW = {"lr": 3e-4, "eps": 1e-3}
CASES: dict[str, Case] = {
    "simclr": Case({"name": "simclr", "sensor": "s2", "px": 24}, SLOW, ("s2",), POOLED),
    "dual_simclr": Case({"name": "dual_simclr", "crop_px": 18, "symmetry": "dihedral"}, FAST),
    "mma": Case(
        {"name": "mma", "crop_px": 18, "channels": 16},
        FAST,
        backbone={"name": "test_resnet", "args": {"norm_layer": "groupnorm1", "act_layer": "gelu", "replace_stem_pool": True, "output_stride": 8}},
    ),
    "mae": Case({"name": "mae", "px": 24, "fusion": "early", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4}, FAST),
    "byol": Case({"name": "byol", **TAUGHT, "hidden": 64, "projection": 16}, SLOW, backbone=POOLED),
    "moco_v3": Case({"name": "moco_v3", **TAUGHT, "hidden": 64, "projection": 16}, SLOW, backbone=POOLED),
    "dino": Case(
        {"name": "dino", **TAUGHT, **PROTOTYPES, "local_crops": 2, "local_px": 12},
        {"lr": 3e-4, "eps": 1e-4},
        backbone={"name": "vit_sct", "args": {**VIT["args"], "dynamic_img_size": True}},
    ),
    "gsc_mim": Case(GSC, FAST),
    "gsc_mim double": Case({**GSC, "masking": "double"}, FAST),
    "gsc_mim shared_geometry": Case({**GSC, "masking": "shared_geometry", "photometric": "ibot"}, FAST),
}


class Land(MemoryArchive):
    """Patches that differ in level, slope and roughness, as land does; BatchNorm would blow up patches of noise."""

    def pixels(self, number: int, group: Group) -> np.ndarray:
        rng = np.random.default_rng([number, len(group.bands)])
        height, width = group.shape or (0, 0)
        rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)
        level, down, right, rough = rng.uniform(-1, 1, (4, len(group.bands), 1, 1))
        x = level + down * rows + right * columns + 0.3 * rough * rng.standard_normal((len(group.bands), height, width))
        return (-14 + 6 * x if group.units == "db" else (2000 + 700 * x).clip(0)).astype(group.dtype)


def land_shards(folder: Path) -> Path:
    build_shards(Land(samples=64, groups=GROUPS), folder, samples_per_shard=16)
    return folder


def settings(shards: Path, case: str, name: str, stage: int, **strategy: Any) -> config.RunSettings:
    of = CASES[case]
    tree = {
        "run": {"dir": "unused", "seed": 1},
        "data": {"shards": str(shards), "window": 2},
        "sensors": {sensor: SENSORS[sensor] for sensor in of.sensors},
        "backbone": of.backbone,
        "objective": of.objective,
        "strategy": {"name": name, "deepspeed": f"configs/deepspeed/zero{stage}.json", **strategy},
        "optim": {"lr_reference_batch": None, "warmup_epochs": 1, "clip_norm": 1.0, **of.optim},
        "train": {"global_batch": 16, "steps": STEPS},
    }
    return config.parse(tree)


def smooth_(module: nn.Module) -> None:
    """GELU for every ReLU."""
    for name, child in module.named_children():
        setattr(module, name, nn.GELU()) if isinstance(child, nn.ReLU) else smooth_(child)


@torch.no_grad()
def stir_(module: nn.Module) -> None:
    """In backbones, normal numbers of 0.02 for what starts within 1e-4 of 0: biases, scales of norms, class tokens."""
    for part in module.modules():
        if isinstance(part, Backbone):
            generator = torch.Generator().manual_seed(0)  # a teacher's are those of its student
            for parameter in part.parameters():
                if parameter.abs().max() < 1e-4:
                    parameter.normal_(0.0, 0.02, generator=generator)


def start(shards: Path, case: str, name: str, stage: int, **strategy: Any) -> tuple[Job, Strategy]:
    here = world.World(world.rank(), world.size(), world.rank(), torch.device("cpu"))
    job = prepare(settings(shards, case, name, stage, **strategy), here, deepspeed_launcher=False)
    smooth_(job.objective)
    stir_(job.objective)
    own = job.settings
    return job, build_strategy(own.strategy, here, job.objective, own.optim, job.objective.teachers())


@contextmanager
def batches_of(job: Job) -> Iterator[Iterator[Batch]]:
    batches = job.loader.batches()
    try:
        yield batches
    finally:
        batches.close()


def train(shards: Path, case: str, name: str, stage: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of the global batch in every step; after the last, weights with those of teachers, and their drift."""
    job, strategy = start(shards, case, name, stage)
    losses = []
    with batches_of(job) as batches:
        for step in range(STEPS):
            job.objective.prepare(job.progress(step))
            report = strategy.train_step(next(batches), job.lr(step), job.objective.momentum)
            losses.append(world.mean_over_ranks(report.loss).item())
    weights = {name: value.clone() for name, value in strategy.weights()}
    drift = strategy.teacher_drift()
    return losses, weights if drift is None else {**weights, "drift": torch.tensor(drift)}
