"""The runs of benchmarks/collapse.py: simulated land, injected failures, and healthy runs of all objectives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rspretrain.archives import simulate
from rspretrain.archives.base import Archive, Entry
from rspretrain.batch import Batch
from rspretrain.engine.job import Job
from rspretrain.objectives.byol import Byol
from rspretrain.objectives.gsc_mim import GscMim
from rspretrain.objectives.mae import Mae
from rspretrain.patch import Fault, Patch
from rspretrain.sensors import Group

SIDE = 48  # pixels of the images


class Land(Archive):
    """Simulated land in three groups: Sentinel-1, four bands of Sentinel-2, and an RGB image."""

    name = "land"
    metadata_bytes = 512
    groups = (
        Group("s1_10m", "s1", ("VV", "VH"), "float32", (SIDE, SIDE), 10.0, "db"),
        Group("s2_10m", "s2", ("B02", "B03", "B04", "B08"), "uint16", (SIDE, SIDE), 10.0, "dn"),
        Group("rgb", "rgb", ("R", "G", "B"), "uint8", (SIDE, SIDE), 10.0, "grey"),
    )

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.nomenclatures = {}

    def entries(self) -> tuple[list[Entry], list[Fault]]:
        return [Entry(f"land-{i:05d}", f"land {i}", i) for i in range(self.samples)], []

    def read(self, entry: Entry) -> Patch:
        number = entry.source
        rng = np.random.default_rng([7, number])
        landscapes = sorted(simulate.LANDSCAPES)
        land, _ = simulate.draw_land(rng, landscapes[number % len(landscapes)])
        textures = simulate.draw_textures(rng)
        cover = simulate.cover_of(land, textures)
        s2 = simulate.render_s2(rng, cover, textures, simulate.draw_sky(rng, int(rng.integers(365))))
        s1 = simulate.render_s1(rng, cover, textures, simulate.draw_radar(rng))
        cut = {band: pixels[:, :SIDE, :SIDE] for band, pixels in {**s1, **s2}.items() if pixels.shape[-1] == 120}
        picture = np.concatenate([cut[band] for band in ("B04", "B03", "B02")])
        images = {
            "s1_10m": np.concatenate([cut["VV"], cut["VH"]]),
            "s2_10m": np.concatenate([cut[band] for band in ("B02", "B03", "B04", "B08")]),
            "rgb": np.clip(picture / 12.0, 0, 255).astype(np.uint8),
        }
        return Patch(entry.key, images, {}, "train", None, None, {})


S1 = {"s1": {"bands": ["VV", "VH"], "normalise": "measured"}}
S2 = {"s2": {"bands": ["B02", "B03", "B04", "B08"], "normalise": "measured"}}
RGB = {"rgb": {"bands": ["R", "G", "B"], "normalise": "imagenet"}}
CNN = {"name": "test_resnet"}
VIT = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}}
ANY_SIZE = {**VIT, "args": {**VIT["args"], "dynamic_img_size": True}}  # type: ignore[dict-item]
SIMCLR = {"name": "simclr", "px": 32}
DUAL = {"name": "dual_simclr", "crop_px": 32}
MMA = {"name": "mma", "crop_px": 32}
TAUGHT = {"px": 32, "hidden": 128, "momentum": 0.9}
BYOL = {"name": "byol", "projection": 64, **TAUGHT}
MOCO = {"name": "moco_v3", "projection": 64, **TAUGHT}
DINO = {"name": "dino", "bottleneck": 64, "outputs": 64, **TAUGHT}
GSC = {"name": "gsc_mim", "bottleneck": 64, "outputs": 64, **TAUGHT}
MAE = {"name": "mae", "px": 32, "decoder_width": 32, "decoder_depth": 2, "decoder_heads": 2}


def of(sensor: str, **options: object) -> dict[str, Any]:
    """SimCLR on one sensor."""
    return {**SIMCLR, "sensor": sensor, **options}


@dataclass(frozen=True)
class Run:
    """One run: its configuration, the injected failure, and the causes that describe it correctly."""

    name: str
    objective: dict[str, Any]
    sensors: dict[str, Any]
    backbone: dict[str, Any]
    fits: tuple[str, ...] = ()  # empty: a healthy run
    plant: Callable[[Job], Job] = lambda job: job
    overrides: tuple[str, ...] = ()


def with_batches(change: Callable[[Batch], Batch]) -> Callable[[Job], Job]:
    """Inject a fault into every batch, between loader and loop."""

    def plant(job: Job) -> Job:
        whole = job.loader.batches

        def batches(first_step: int = 0) -> Iterator[Batch]:
            yield from map(change, whole(first_step))

        job.loader.batches = batches  # type: ignore[method-assign]
        return job

    return plant


def without_predictor(job: Job) -> Job:
    job.objective.predictor = nn.ModuleDict({name: nn.Identity() for name in job.objective.predictor})
    return job


def without_stop_gradient(job: Job) -> Job:
    """The target is the student's projection, with its gradient (Chen & He 2021, figure 2)."""
    byol = job.objective
    assert isinstance(byol, Byol)
    students, teachers = dict(byol.student.items()), byol.teacher

    def lend(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        name = next(name for name, teacher in teachers.items() if teacher is module)
        with torch.enable_grad():
            return students[name](args[0])

    for teacher in teachers.values():
        teacher.register_forward_hook(lend)
    return job


def with_one_view(job: Job) -> Job:
    """Identical views. No setting does this: crops of the whole image still differ in aspect ratio."""
    views = job.objective.views
    if isinstance(views, nn.Module):
        views.register_forward_hook(lambda _, args, found: {name: two[:1] * 2 for name, two in found.items()})
    else:  # SimCLR's
        job.objective.views = lambda batch: views(batch)[:1] * 2
    return job


def with_all_hidden(job: Job) -> Job:
    """Mask all patches. No setting does this: complementary masks show each patch once, and MAE keeps one patch."""
    objective = job.objective
    if isinstance(objective, Mae):
        objective.settings = objective.settings.model_copy(update={"mask_ratio": 1.0})
    else:
        assert isinstance(objective, GscMim)
        drawn = objective.masks
        objective.masks = lambda seeds: torch.ones_like(drawn(seeds))  # type: ignore[method-assign]
    return job


def constant_band(batch: Batch) -> Batch:
    batch.images["s2_10m"][:, 1] = 700
    return batch


def duplicated(batch: Batch) -> Batch:
    """Each image eight times."""
    first = torch.arange(len(batch)) // 8 * 8
    return replace(batch, images={name: pixels[first] for name, pixels in batch.images.items()})


def swapped_bands(batch: Batch) -> Batch:
    batch.images["s2_10m"][::2] = batch.images["s2_10m"][::2].flip(1)
    return batch


FAST = ("optim.lr=3e-3",)
COLLAPSE = ("collapsed_features", "one_dimension")
FAULTS = (
    Run("no_predictor", BYOL, RGB, CNN, COLLAPSE, without_predictor, FAST),
    Run("no_stop_gradient", BYOL, RGB, CNN, COLLAPSE, without_stop_gradient, FAST),
    Run("momentum_0", {**BYOL, "momentum": 0.0, "momentum_end": 0.0}, S2, CNN, ("teacher_is_student",)),
    Run("momentum_1", {**BYOL, "momentum": 1.0}, S1, CNN, ("still_teacher",)),
    Run("rate_far_too_high", of("rgb"), RGB, CNN, ("exploded_weights",), overrides=("optim.lr=1.0",)),
    Run("constant_band", DUAL, {**S1, **S2}, CNN, ("constant_band",), with_batches(constant_band)),
    Run("duplicated_batch", of("rgb"), RGB, CNN, ("duplicates",), with_batches(duplicated)),
    Run("swapped_bands", DUAL, {**S1, **S2}, CNN, ("shifted_band",), with_batches(swapped_bands)),
    Run("zero_temperature", of("rgb", temperature=1e-6), RGB, CNN, ("worse_than_chance",)),
    Run("views_identical", of("rgb"), RGB, CNN, ("identical_views",), with_one_view),
    Run("centering_off", {**DINO, "center_momentum": 1.0}, RGB, CNN, ("one_target",)),
    Run("masked_everything", GSC, S2, VIT, ("blind",), with_all_hidden),
)
HEALTHY = (
    Run("simclr_rgb_cnn", of("rgb"), RGB, CNN),
    Run("simclr_s1_vit", of("s1"), S1, VIT),
    Run("dual_simclr_cnn", DUAL, {**S1, **S2}, CNN),
    Run("mma_cnn", MMA, {**S1, **S2}, CNN),
    Run("byol_rgb_cnn", BYOL, RGB, CNN, overrides=FAST),
    Run("byol_s1_s2_early_vit", {**BYOL, "fusion": "early"}, {**S1, **S2}, VIT),
    Run("moco_v3_s2_cnn", MOCO, S2, CNN),
    Run("dino_rgb_cnn", DINO, RGB, CNN),
    Run("dino_s2_local_vit", {**DINO, "local_crops": 2, "local_px": 16}, S2, ANY_SIZE),
    Run("mae_s2_vit", MAE, S2, VIT),
    Run("gsc_mim_s2_vit", GSC, S2, VIT),
    Run("gsc_mim_s1_s2_vit", {**GSC, "masking": "double"}, {**S1, **S2}, VIT),
)
# Held-out runs, not used when the thresholds were chosen. The same failures in other objectives:
OTHER_FAULTS = (
    Run("no_predictor", BYOL, S2, VIT, COLLAPSE, without_predictor),
    Run("no_stop_gradient", BYOL, S1, CNN, COLLAPSE, without_stop_gradient),
    Run("momentum_0", {**DINO, "momentum": 0.0, "momentum_end": 0.0}, RGB, VIT, ("teacher_is_student",)),
    Run("momentum_1", {**MOCO, "momentum": 1.0}, S2, CNN, ("still_teacher",)),
    Run("rate_far_too_high", MAE, RGB, VIT, ("exploded_weights",), overrides=("optim.lr=1.0",)),
    Run("constant_band", MAE, S2, VIT, ("constant_band",), with_batches(constant_band)),
    Run("duplicated_batch", MOCO, S1, CNN, ("duplicates",), with_batches(duplicated)),
    Run("swapped_bands", GSC, {**S1, **S2}, VIT, ("shifted_band",), with_batches(swapped_bands)),
    Run("zero_temperature", {**MOCO, "temperature": 1e-6}, RGB, CNN, ("worse_than_chance",)),
    Run("views_identical", BYOL, RGB, CNN, ("identical_views",), with_one_view),
    Run("centering_off", {**GSC, "center_momentum": 1.0}, S2, VIT, ("one_target",), overrides=FAST),
    Run("masked_everything", MAE, S2, VIT, ("blind",), with_all_hidden),
)
# Healthy runs with other learning rates, batches, long warm-ups, a line per step, and the papers' momentum of 0.996.
OTHER_SETTINGS = (
    ("optim.lr=3e-3", "train.global_batch=16"), ("optim.warmup_epochs=60", "watch.every=1"),
    ("train.global_batch=16", "watch.every=1"), ("optim.lr=5e-3",), ("optim.lr=3e-4", "objective.momentum=0.996"),
    ("optim.warmup_epochs=60",), ("optim.name=sgd", "optim.lr=0.05"), ("objective.momentum=0.996", "optim.lr=5e-4"),
    ("optim.warmup_epochs=60", "watch.every=1"), ("optim.lr=5e-3", "watch.every=1"), ("train.global_batch=64", *FAST),
    ("objective.momentum=0.996", "train.global_batch=16"),
)  # fmt: skip
OTHERS = (
    *(replace(run, name=f"{run.name}/other") for run in OTHER_FAULTS),
    *(
        replace(run, name=f"{run.name}/other", overrides=(*run.overrides, *extra))
        for run, extra in zip(HEALTHY, OTHER_SETTINGS, strict=True)
    ),
)
