"""A small fine-tuning run on images with visible classes, in one process and on several ranks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes.memory import CLASSES, MemoryArchive

from rspretrain import config, world
from rspretrain.engine.finetune import prepare_finetune
from rspretrain.engine.job import Job
from rspretrain.engine.trainer import train
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.world import World

CONFIG = """
data: {window: 2, ledger: true}
sensors: {s1: {bands: [VV, VH], normalise: bigearthnet}, s2: {bands: [B02, B03, B04, B08], normalise: bigearthnet}}
network: {name: vit_tiny_patch16_224, px: 12, args: {patch_size: 4, embed_dim: 24, depth: 2, num_heads: 2}}
labels: {nomenclature: all}
strategy: {precision: fp32}
optim: {lr: 3e-3, lr_reference_batch: null, warmup_epochs: 0}
train: {global_batch: 8, epochs: 3}
watch: {every: 2, wandb: off}
"""


class Coloured(MemoryArchive):
    """Noise images in which each class of an image brightens one band of S2."""

    def pixels(self, number: int, group: Group) -> np.ndarray:
        pixels = super().pixels(number, group).astype(np.float64)
        if group.name == "s2_10m":
            for band, name in enumerate(CLASSES[: len(group.bands)]):
                pixels[band] += 2000 * (name == CLASSES[number % 3] or number % 2)
        return pixels.astype(group.dtype)


def write_config(folder: Path, samples: int = 100) -> Path:
    """Build a shard set and write a configuration for it, in `folder`."""
    build_shards(Coloured(samples=samples), folder / "shards", samples_per_shard=8)
    path = folder / "finetune.yaml"
    path.write_text(
        f"run: {{dir: {folder}/run, seed: 3}}{CONFIG}".replace("data: {", f"data: {{shards: {folder}/shards, ")
    )
    return path


def job(path: Path, *overrides: str) -> Job:
    """The fine-tuning job of this process."""
    return prepare_finetune(config.load_finetune(path, overrides), World(0, 1, 0, torch.device("cpu")), False)


def finetune(path: Path, *overrides: str, resume: bool = False) -> dict[str, Any]:
    """Run the job; the content of results.json."""
    run = job(path, *overrides)
    train(run, resume=resume, log=lambda line: None)
    return results(run.settings.run.dir)


def results(folder: Path) -> dict[str, Any]:
    """The content of a run's results.json."""
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def on_this_rank(path: Path, *overrides: str) -> dict[str, Any]:
    """As `finetune`, on one of several ranks."""
    this_world = World(world.rank(), world.size(), world.rank(), torch.device("cpu"))
    run = prepare_finetune(config.load_finetune(path, overrides), this_world, False)
    train(run, resume=False, log=lambda line: None)
    return results(run.settings.run.dir)
