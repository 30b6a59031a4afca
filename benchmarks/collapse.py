"""Is collapse called by its name, and health left in peace? 12 planted failures and 12 healthy runs of 200 steps.

    python benchmarks/collapse.py                    # all 24; then held out: other seeds, rates, batches
    python benchmarks/collapse.py --only momentum_0  # some of them, without writing results

Every run is the product's own loop on simulated land (archives/simulate.py), 32 px, tiny networks. Faults are planted
by real settings where settings can do it, else by exchanging a part of the objective or of the batches, here only.
Centering and masking are planted in two small objectives of the benchmark's own (collapse_objectives.py).
"""

import argparse
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from collapse_objectives import TinyDino, TinyMasked
from results import write_results
from torch import nn

from rspretrain import config
from rspretrain.archives import simulate
from rspretrain.archives.base import Archive, Entry
from rspretrain.batch import Batch
from rspretrain.engine.job import Job, prepare
from rspretrain.engine.loop import train
from rspretrain.observe.sinks import read_metrics
from rspretrain.observe.verdict import LEVELS, HealthSettings, Watch
from rspretrain.patch import Fault, Patch
from rspretrain.sensors import Group
from rspretrain.shardset.build import build_shards
from rspretrain.world import World

SIDE = 48  # pixels of the images
STEPS = 200


class Land(Archive):
    """Simulated land in three groups: Sentinel-1, four bands of Sentinel-2, and a picture of it."""

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
        s2 = simulate.see_s2(rng, cover, textures, simulate.draw_sky(rng, int(rng.integers(365))))
        s1 = simulate.see_s1(rng, cover, textures, simulate.draw_radar(rng))
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
HEADS = {"hidden": 128, "projection": 64, "momentum": 0.9}
BYOL = {"name": "byol", "px": 32, **HEADS}
DUAL = {"name": "dual_simclr", "crop_px": 32}


def simclr(sensor: str, **options: object) -> dict[str, Any]:
    return {"name": "simclr", "sensor": sensor, "px": 32, **options}


@dataclass(frozen=True)
class Run:
    """One run: what is configured, what is planted, and which causes would be the right name for it."""

    name: str
    objective: dict[str, Any]
    sensors: dict[str, Any]
    backbone: dict[str, Any]
    fits: tuple[str, ...] = ()  # empty: a healthy run
    plant: Callable[[Job], Job] = lambda job: job
    overrides: tuple[str, ...] = ()


def exchange(make: Callable[[Job], nn.Module]) -> Callable[[Job], Job]:
    """Plant another objective."""
    return lambda job: replace(job, objective=make(job))


def spoil(change: Callable[[Batch], Batch]) -> Callable[[Job], Job]:
    """Plant a fault in every batch between the shards and the loop."""

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
    """The target is the student's own projection, with its gradient (Chen & He 2021, figure 2)."""
    from rspretrain.objectives.byol import Byol

    byol = job.objective
    assert isinstance(byol, Byol)
    students, teachers = dict(byol.student.items()), byol.teacher

    def lend(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        name = next(name for name, teacher in teachers.items() if teacher is module)
        with torch.enable_grad():
            return students[name](args[0])

    for teacher in teachers.values():
        teacher.register_forward_hook(lend)
    return job


def with_one_view(job: Job) -> Job:
    """No setting does it wholly: boxes of the whole image still differ in their aspect."""
    views = job.objective.views
    job.objective.views = lambda batch: views(batch)[:1] * 2
    return job


def constant_band(batch: Batch) -> Batch:
    batch.images["s2_10m"][:, 1] = 700
    return batch


def duplicated(batch: Batch) -> Batch:
    """Every image eight times."""
    first = torch.arange(len(batch)) // 8 * 8
    return replace(batch, images={name: pixels[first] for name, pixels in batch.images.items()})


def swapped_bands(batch: Batch) -> Batch:
    batch.images["s2_10m"][::2] = batch.images["s2_10m"][::2].flip(1)
    return batch


FAST = ("optim.lr=3e-3",)
FAULTS = (
    Run("no_predictor", BYOL, RGB, CNN, ("collapsed_features", "one_dimension"), without_predictor, FAST),
    Run("no_stop_gradient", BYOL, RGB, CNN, ("collapsed_features", "one_dimension"), without_stop_gradient, FAST),
    Run("momentum_0", {**BYOL, "momentum": 0.0, "momentum_end": 0.0}, S2, CNN, ("teacher_is_student",)),
    Run("momentum_1", {**BYOL, "momentum": 1.0}, S1, CNN, ("still_teacher",)),
    Run("rate_far_too_high", simclr("rgb"), RGB, CNN, ("exploded_weights",), overrides=("optim.lr=1.0",)),
    Run("constant_band", DUAL, {**S1, **S2}, CNN, ("constant_band",), spoil(constant_band)),
    Run("duplicated_batch", simclr("rgb"), RGB, CNN, ("duplicates",), spoil(duplicated)),
    Run("swapped_bands", DUAL, {**S1, **S2}, CNN, ("shifted_band",), spoil(swapped_bands)),
    Run("zero_temperature", simclr("rgb", temperature=1e-6), RGB, CNN, ("worse_than_chance",)),
    Run("views_identical", simclr("rgb"), RGB, CNN, ("identical_views",), with_one_view),
    Run(
        "centering_off", simclr("rgb"), RGB, CNN, ("one_target",), exchange(lambda job: TinyDino(job, center=0.0)),
        FAST,
    ),
    Run("masked_everything", simclr("s2"), S2, VIT, ("blind",), exchange(lambda job: TinyMasked(job, ratio=1.0))),
)  # fmt: skip
DINO, MASKED = exchange(TinyDino), exchange(TinyMasked)
HEALTHY = (
    Run("byol_rgb_cnn", BYOL, RGB, CNN, overrides=FAST),
    Run("byol_s2_vit", BYOL, S2, VIT),
    Run("byol_s1_cnn", BYOL, S1, CNN),
    Run("byol_s1_s2_early_cnn", {**BYOL, "fusion": "early"}, {**S1, **S2}, CNN),
    Run("simclr_rgb_cnn", simclr("rgb"), RGB, CNN),
    Run("simclr_rgb_vit", simclr("rgb"), RGB, VIT),
    Run("simclr_s2_cnn", simclr("s2"), S2, CNN),
    Run("simclr_s1_cnn", simclr("s1"), S1, CNN),
    Run("dual_simclr_cnn", DUAL, {**S1, **S2}, CNN),
    Run("dual_simclr_vit", DUAL, {**S1, **S2}, VIT),
    Run("tiny_dino_rgb_cnn", simclr("rgb"), RGB, CNN, plant=DINO, overrides=FAST),
    Run("tiny_masked_s2_vit", simclr("s2"), S2, VIT, plant=MASKED),
)
# Settings that nobody looked at while thresholds were written down: rates, batches, long warm-ups, a line every step.
OTHERS = tuple(
    replace(run, name=f"{run.name}/other", overrides=(*run.overrides, *extra))
    for run, extra in zip(
        HEALTHY,
        (
            ("optim.lr=3e-3",), ("optim.lr=3e-4", "watch.every=1"), ("train.global_batch=64",),
            ("optim.warmup_epochs=60",), ("optim.lr=3e-3", "train.global_batch=16"), ("optim.warmup_epochs=60",),
            ("optim.name=sgd", "optim.lr=0.05"), ("train.global_batch=16", "watch.every=1"), ("optim.lr=5e-3",),
            ("optim.warmup_epochs=60", "optim.lr=3e-4", "watch.every=1"), ("optim.lr=3e-3",), ("optim.lr=3e-3",),
        ),
        strict=True,
    )
)  # fmt: skip
ALL = FAULTS + HEALTHY + OTHERS


def measure(run: Run, folder: Path, seed: int, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Train on <folder>/shards, and read the verdict after every line: one row of the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    tree = {
        "run": {"dir": folder / "runs" / f"{run.name.replace('/', '_')}_{seed}", "seed": seed},
        "data": {"shards": folder / "shards", "verify": False, "threads": 1},
        "sensors": run.sensors, "backbone": run.backbone, "objective": run.objective,
        "optim": {"lr": 1e-3, "lr_reference_batch": None, "warmup_epochs": 2},
        "train": {"global_batch": 32, "steps": STEPS, "checkpoint_minutes": None, "keep": 1},
        "watch": {"wandb": "off"},
    }  # fmt: skip
    settings = config.parse(tree, [*run.overrides, *overrides])
    metrics = settings.run.dir / "metrics.jsonl"
    if not metrics.exists():
        job = run.plant(prepare(settings, World(0, 1, 0, torch.device("cpu")), deepspeed_launcher=False))
        with suppress(RuntimeError):  # too many refused steps in a row, which are in the metrics
            train(job, resume=False, say=lambda line: None)
    return {"run": run.name, "seed": seed, **judge_file(metrics, run.fits)}


def judge_file(path: Path, fits: Sequence[str]) -> dict[str, object]:
    """Highest verdict, when the right cause (or, for a healthy run, any) was first named, and the words then."""
    watch = Watch(HealthSettings())
    level, step, causes, words = 0, None, {}, ""
    for line in read_metrics(path):
        verdict = watch.add(line)
        level = max(level, verdict.level)
        causes |= dict.fromkeys(finding.cause for finding, _ in verdict.findings)
        named = [finding for finding, _ in verdict.findings[:1] if finding.cause in fits or not fits]
        if named and step is None:
            step, words = int(line["step"]), f"{named[0].reason}. {named[0].remedy}"
    return {
        "fault": bool(fits), "verdict": LEVELS[level], "as_wanted": (step is not None) == bool(fits),
        "step": step, "causes": " ".join(causes), "reason": words,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="names of runs, with * for any characters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--work", type=Path, help="a folder to keep; runs that lie there are only judged again")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    held_out = args.seed + 1
    tasks = [(number, args.seed) for number in range(len(FAULTS + HEALTHY))]
    tasks += [(number, held_out) for number, run in enumerate(ALL) if run in FAULTS + OTHERS]
    chosen = [task for task in tasks if not args.only or any(fnmatch(ALL[task[0]].name, only) for only in args.only)]
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(args.workers) as pool:
        folder = args.work or Path(name)
        if not (folder / "shards").exists():
            build_shards(Land(args.samples), folder / "shards", samples_per_shard=32, workers=args.workers)
        rows = []
        for row in pool.map(measure_at, *zip(*chosen, strict=True), repeat(folder)):
            rows.append(row)
            print(row, flush=True)
    if not args.only:
        write_results("collapse", rows, {"steps": STEPS, "samples": args.samples, "seed": args.seed})


def measure_at(number: int, seed: int, folder: Path) -> dict[str, object]:
    """`measure` by the number of a run, because its functions cannot be pickled."""
    return measure(ALL[number], folder, seed)


if __name__ == "__main__":
    main()
