"""Every objective as a small job on generated land shards, for tests of strategies.

In float32, rounding depends on the number of ranks. Four things amplify the differences beyond 1e-6 of a tensor's norm.
None is caused by a strategy (in float64, ranks agree to 1e-9, see tests/objectives), so these jobs avoid them:

- ReLU and max pooling: close to a kink, rounding selects the gradient; BYOL differed by up to 1e-2, MMA by 1e-4.
- BatchNorm over nearly constant features, such as the class tokens of an untrained ViT, divides by almost zero: 1e-4.
  ViTs with BatchNorm heads use mean pooling; CNNs have group norms (BatchNorm in a ResNet-18: 0.2 % in loss).
- Adam turns rounding errors of a zero gradient (a key's bias, a bias before BatchNorm) into steps: eps is much larger.
- A parameter that starts at 0 has, after 20 steps, the relative error of its gradients: 7e-5. No parameter of the
  backbones starts at 0.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes.memory import MemoryArchive
from torch import Tensor, nn

from rspretrain import config, world
from rspretrain.engine.job import Job, prepare
from rspretrain.nn.backbones import Backbone
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.strategies import Strategy, build_strategy
from rspretrain.strategies.base import StepReport
from strategies.toys import this_world

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


def vit(**args: object) -> dict[str, Any]:
    """A ViT with 16 patches for a view of 24 pixels."""
    return {"name": "vit_sct", "args": {"depth": 2, "embed_dim": 32, "num_heads": 4, "patch_size": 6, **args}}


CNN = {
    "name": "test_resnet",
    "args": {"norm_layer": "groupnorm1", "act_layer": "gelu", "replace_stem_pool": True, "output_stride": 8},
}
EMA = {"px": 24, "fusion": "early", "momentum": 0.9}
PROTOTYPES = {**EMA, "hidden": 64, "bottleneck": 16, "outputs": 64, "temperature_epochs": 3}  # an epoch is 4 steps
NORMED = {"lr": 3e-4, "eps": 1e-3}


@dataclass(frozen=True)
class Case:
    objective: dict[str, Any]
    # Relative to every loss, and to every tensor's norm after 20 steps: 3 to 5 times the errors in test_objectives.py.
    tolerance: float
    backbone: dict[str, Any] = field(default_factory=vit)
    optim: dict[str, Any] = field(default_factory=lambda: {"lr": 1e-3, "eps": 1e-4})
    sensors: tuple[str, ...] = ("s1", "s2")


PAINTER = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4}
HEADS = {**EMA, "hidden": 64, "projection": 16}
GSC = {"name": "gsc_mim", **PROTOTYPES}
CASES: dict[str, Case] = {
    "simclr": Case({"name": "simclr", "sensor": "s2", "px": 24}, 4e-6, vit(global_pool="avg"), NORMED, ("s2",)),
    "dual_simclr": Case({"name": "dual_simclr", "crop_px": 18, "symmetry": "dihedral"}, 5e-7),
    "mma": Case({"name": "mma", "crop_px": 18, "channels": 16}, 1e-6, CNN),
    "mae": Case({"name": "mae", "px": 24, "fusion": "early", **PAINTER}, 2e-6),
    "byol": Case({"name": "byol", **HEADS}, 2e-6, vit(global_pool="avg"), NORMED),
    "moco_v3": Case({"name": "moco_v3", **HEADS}, 2e-6, vit(global_pool="avg"), NORMED),
    "dino": Case(
        {"name": "dino", **PROTOTYPES, "local_crops": 2, "local_px": 12},
        3e-6,
        vit(dynamic_img_size=True),
        {"lr": 3e-4, "eps": 1e-4},
    ),
    "gsc_mim": Case(GSC, 2e-6),
    "gsc_mim double": Case({**GSC, "masking": "double"}, 2e-6),
    "gsc_mim shared_geometry": Case({**GSC, "masking": "shared_geometry", "photometric": "ibot"}, 2e-6),
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


def settings(shards: Path, case: Case, name: str = "single", stage: int = 0, **strategy: object) -> config.RunSettings:
    tree = {
        "run": {"dir": "unused", "seed": 1},
        "data": {"shards": str(shards), "window": 2},
        "sensors": {sensor: SENSORS[sensor] for sensor in case.sensors},
        "backbone": case.backbone,
        "objective": case.objective,
        "strategy": {"name": name, "precision": "fp32", "deepspeed": f"configs/deepspeed/zero{stage}.json", **strategy},
        "optim": {"lr_reference_batch": None, "warmup_epochs": 1, "clip_norm": 1.0, **case.optim},
        "train": {"global_batch": 16, "steps": STEPS},
    }
    return config.parse(tree)


def smooth_(module: nn.Module) -> None:
    """Replace every ReLU by GELU."""
    for name, child in module.named_children():
        setattr(module, name, nn.GELU()) if isinstance(child, nn.ReLU) else smooth_(child)


@torch.no_grad()
def stir_(module: nn.Module) -> None:
    """In backbones, initialise parameters within 1e-4 of 0 (biases, norm scales, class tokens) with std 0.02 noise."""
    for part in module.modules():
        if isinstance(part, Backbone):
            generator = torch.Generator().manual_seed(0)  # equal for teacher and student
            for parameter in part.parameters():
                if parameter.abs().max() < 1e-4:
                    parameter.normal_(0.0, 0.02, generator=generator)


def start(shards: Path, case: str, name: str, stage: int, **strategy: object) -> tuple[Job, Strategy]:
    """A job and its strategy; the initial objective is the same on all ranks and for all strategies."""
    job = prepare(settings(shards, CASES[case], name, stage, **strategy), this_world(), deepspeed_launcher=False)
    smooth_(job.objective)
    stir_(job.objective)
    own = job.settings
    return job, build_strategy(own.strategy, job.world, job.objective, own.optim, job.objective.teachers())


def steps(
    job: Job, strategy: Strategy, span: range, lr: float | None = None, momentum: float | None = None
) -> Iterator[StepReport]:
    """Train these steps, by default with the job's learning rate and the objective's momentum."""
    with closing(job.loader.batches(span.start)) as batches:
        for step in span:
            job.objective.prepare(job.progress(step))
            yield strategy.train_step(next(batches), lr or job.lr(step), momentum or job.objective.momentum)


def take(job: Job, strategy: Strategy, span: range) -> list[float]:
    """Losses of the global batches."""
    return [world.mean_over_ranks(report.loss).item() for report in steps(job, strategy, span)]


def tensors(strategy: Strategy) -> dict[str, Tensor]:
    """Weights and buffers of students, teachers and centers."""
    return {name: value.detach().clone() for name, value in strategy.weights()}


def train(shards: Path, case: str, name: str, stage: int) -> tuple[list[float], dict[str, Tensor], float | None]:
    """Losses of 20 steps, the final weights, and the teacher drift."""
    job, strategy = start(shards, case, name, stage)
    losses = take(job, strategy, range(STEPS))
    return losses, tensors(strategy), strategy.teacher_drift()


def apart(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, float]:
    """Name -> distance relative to our tensor's norm.

    For a running mean, relative to the root mean square of its activations: the mean of normalised values is only
    rounding error.
    """
    assert theirs.keys() == ours.keys()
    found = {}
    for name, value in ours.items():
        scale = value.double()
        if name.endswith("running_mean"):
            scale = (scale.square() + ours[name.replace("running_mean", "running_var")]).sqrt()
        found[name] = ((theirs[name].double() - value.double()).norm() / scale.norm()).item()
    return found
