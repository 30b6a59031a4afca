"""Orderings of networks from the papers, tested on generated archives where each sensor shows a part of the classes.

    python benchmarks/ordering.py --work runs                    # everything; keeps complete runs in `runs`
    python benchmarks/ordering.py --work runs --only '*/sct/*'   # some runs, without writing results
    python benchmarks/ordering.py --work runs --seeds 100 --only '*/s2/*' --steps 1600    # a pilot

SCT Fusion > early fusion > Sentinel-2 > Sentinel-1 from scratch on all labels; Dual-SimCLR pretraining > scratch on 10
% of the labels; K-Branch with multi-attention > without. Each of three seeds has its own archive (ordering_land.py) and
training seed. All runs use the product's loops. Each run is tested once, with its best weights in validation. The
design was chosen on the validation split of an archive with another seed. docs/ordering.md has the results.
"""

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from itertools import product, repeat
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from ordering_land import BANDS, VISIBLE_TO, Land
from results import write_results

from rspretrain import config
from rspretrain.engine.finetune import prepare_finetune
from rspretrain.engine.job import prepare
from rspretrain.engine.trainer import train
from rspretrain.files import read_json, write_json
from rspretrain.shardset.building.build import build_shards
from rspretrain.world import World

SEEDS, PILOT_SEED = (3, 4, 5), 100  # 0, 1 and 2 belong to a shorter design, whose test results were seen
SIZES = {"train": 1000, "val": 150, "test": 400}
STEPS, TENTH_STEPS, BATCH, RATE, WARMUP, VALIDATE_EVERY = 1600, 400, 32, 2e-3, 25, 50
PRETRAIN_STEPS, PRETRAIN_BATCH, PRETRAIN_RATE = 300, 64, 1e-3
K_BRANCH_STEPS, K_BRANCH_BATCH, K_BRANCH_RATE = 250, 16, 1e-3  # the paper's learning rate
PX = 60  # of 120: a patch of 10 is 200 m
VIT = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 10, "embed_dim": 64, "depth": 4, "num_heads": 4}}
S1 = {"s1": {"bands": ["VV", "VH"], "normalise": "bigearthnet"}}
S2 = {"s2": {"bands": [*BANDS["s2_10m"], *BANDS["s2_20m"]], "normalise": "bigearthnet"}}  # as in SCT Fusion
GRIDS = {"s2": {"bands": [band for bands in BANDS.values() for band in bands], "normalise": "bigearthnet"}}
# Views of networks of both sensors (docs/methods.md, SCT Fusion); networks of one sensor have stochastic depth only.
VARIED = {"independent": True, "symmetry": "flips", "scale": [0.8, 1.0], "sensor_drop": 0.5}
PLAIN = {"symmetry": "none"}
SCT = {"sensors": S1 | S2, "classifier": {"name": "sct_fusion", "drop_path": 0.25}, "views": VARIED}
DEEP = VIT | {"px": PX, "drop_path": 0.25}
K_BRANCH = {"name": "k_branch", "filters": "released"}  # half the arithmetic of the paper's filters
# Kind of run -> its sections of the fine-tuning configuration.
KINDS: dict[str, dict[str, Any]] = {
    "s1": {"sensors": S1, "network": DEEP, "views": PLAIN},
    "s2": {"sensors": S2, "network": DEEP, "views": PLAIN},
    "early": {"sensors": S1 | S2, "network": DEEP | {"fusion": "early"}, "views": VARIED},
    "sct": {**SCT, "network": VIT | {"px": PX}},
    "sct_tenth": {**SCT, "network": VIT | {"px": PX}, "labels": {"nomenclature": "all", "fraction": 0.1}},
    "sct_tenth_pretrained": {**SCT, "sensors": {}, "labels": {"nomenclature": "all", "fraction": 0.1}},
    "k_branch": {"sensors": GRIDS, "classifier": K_BRANCH, "views": PLAIN},
    "k_branch_plain": {"sensors": GRIDS, "classifier": K_BRANCH | {"attention": "none"}, "views": PLAIN},
}
METRICS = ("ap_macro", "ap_micro", "f2_macro", "recall_samples", "f1_samples", "f2_samples")
VISIBILITY = {"both": ("s1", "s2"), "s2_only": ("s2",), "s1_only": ("s1",)}
# (better kind, worse kind, metrics) of each tested ordering.
ORDERINGS = [
    *((above, below, METRICS[:3]) for above, below in (("sct", "early"), ("early", "s2"), ("s2", "s1"))),
    ("sct_tenth_pretrained", "sct_tenth", METRICS[:3]),
    ("k_branch", "k_branch_plain", METRICS[3:]),
]


@dataclass(frozen=True)
class Run:
    """One run of a kind, on the archive of its seed."""

    kind: str
    seed: int
    lr: float
    steps: int

    @property
    def name(self) -> str:
        return f"{self.seed}/{self.kind}/{self.steps}/{self.lr:g}"


def rate_of(kind: str) -> float:
    """The learning rate of a kind's supervised runs."""
    return K_BRANCH_RATE if kind.startswith("k_branch") else RATE


def steps_of(kind: str) -> int:
    """The number of steps of a kind's supervised runs."""
    if kind.startswith("k_branch"):
        return K_BRANCH_STEPS
    return TENTH_STEPS if "tenth" in kind else STEPS


def common(run: Run, work: Path, batch: int, samples: float) -> dict[str, Any]:
    """The sections of a configuration that all runs share; `samples` per epoch."""
    # On the CPU of the published results, bf16 takes 2/3 of the time of fp32 in convolutions and 3/2 in these ViTs.
    precision = "bf16" if run.kind.startswith("k_branch") else "fp32"
    return {
        "run": {"dir": work / run.name, "seed": run.seed},
        "data": {"shards": work / str(run.seed) / "shards", "threads": 1},
        "optim": {
            "lr": run.lr,
            "lr_reference_batch": None,
            "warmup_epochs": WARMUP * batch / samples,
            "weight_decay": 0,
            "clip_norm": 3.0,
        },
        "strategy": {"name": "single", "precision": precision},
        "train": {"global_batch": batch, "steps": run.steps, "checkpoint_minutes": None, "keep": 1},
        "watch": {"wandb": "off", "every": 50},
    }


def finetune(run: Run, work: Path) -> dict[str, Any]:
    """Train and test a run; the content of results.json."""
    grids = run.kind.startswith("k_branch")
    batch = K_BRANCH_BATCH if grids else BATCH
    kind = {"labels": {"nomenclature": "s2" if grids else "all"}, **KINDS[run.kind]}
    samples = SIZES["train"] * kind["labels"].get("fraction", 1.0)
    tree = {
        **common(run, work, batch, samples),
        **kind,
        "validation": {"every_epochs": VALIDATE_EVERY * batch / samples, "resamples": 0},
    }
    if run.kind == "sct_tenth_pretrained":
        exports = pretrain(run.seed, work)
        tree["backbone"] = {name: exports / name for name in ("s1", "s2")}
    settings = config.parse_as(config.FinetuneSettings, tree)
    job = prepare_finetune(settings, World(0, 1, 0, torch.device("cpu")), deepspeed_launcher=False)
    train(job, resume=settings.run.dir.exists(), log=lambda line: None)
    return read_json(settings.run.dir / "results.json")


def pretrain(seed: int, work: Path) -> Path:
    """Dual-SimCLR on the training split without labels; the folder of its exports. Trains unless it is complete."""
    run = Run("dual_simclr", seed, PRETRAIN_RATE, PRETRAIN_STEPS)
    tree = common(run, work, PRETRAIN_BATCH, SIZES["train"]) | {
        "sensors": S1 | S2,
        "backbone": VIT,
        "objective": {"name": "dual_simclr", "crop_px": 96, "px": PX, "symmetry": "dihedral"},
    }
    tree["data"]["split"] = "train"
    settings = config.parse(tree)
    if not (settings.run.dir / "summary.json").exists():
        job = prepare(settings, World(0, 1, 0, torch.device("cpu")), deepspeed_launcher=False)
        train(job, resume=settings.run.dir.exists(), log=lambda line: None)
    return settings.run.dir / "export"


def measure(run: Run, work: Path) -> dict[str, Any]:
    """A run's row of metrics in percent, cached in a file.

    Pilots report validation metrics only, because decisions must not depend on the test split.
    """
    cached = work / run.name / "row.json"
    if cached.exists():
        return read_json(cached)
    started = time.process_time()
    found = finetune(run, work)
    best = max(validation["ap_macro"] for validation in found["validation"])
    row = {**asdict(run), "step": found["step"], "val_ap_macro": percent(best)}
    row |= {} if run.seed == PILOT_SEED else metrics_of(found)
    row["cpu_seconds"] = round(time.process_time() - started)
    write_json(cached, row)
    return row


def percent(fraction: float) -> float:
    return round(100 * fraction, 2)


def metrics_of(results: dict[str, Any]) -> dict[str, float]:
    """Test metrics, and the mean AP of classes visible to both sensors, to Sentinel-2 alone and to Sentinel-1 alone."""
    test, of_class = results["test"], dict(zip(results["classes"], results["test"]["ap_per_class"], strict=True))
    row = {name: percent(test[name]) for name in METRICS}
    for name, sensors in VISIBILITY.items():
        scores = [score for label, score in of_class.items() if VISIBLE_TO[label] == sensors]
        row |= {f"ap_{name}": percent(mean(scores))} if scores else {}
    return row


def start_worker() -> None:
    """Use one thread per process."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def build(seed: int, work: Path) -> None:
    """Build the shards of a seed's archive."""
    build_shards(Land(seed, **SIZES), work / str(seed) / "shards", samples_per_shard=250, workers=1)


def summarise(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, one line per kind."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["kind"], []).append(row)
    lines = []
    for kind, some in groups.items():
        line: dict[str, Any] = {"kind": kind, "lr": some[0]["lr"], "seeds": len(some)}
        for name in (*METRICS, *(f"ap_{group}" for group in VISIBILITY)):
            if name in some[0]:
                values = [row[name] for row in some]
                line |= {name: round(mean(values), 1), f"{name}_std": round(stdev(values), 1)}
        lines.append(line)
    return lines


def compare(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per ordering and metric with all runs: the difference for each seed, and how often it is positive."""
    at = {(row["kind"], row["seed"]): row for row in rows}
    lines = []
    for above, below, metrics in ORDERINGS:
        if not all((kind, seed) in at for kind in (above, below) for seed in SEEDS):
            continue
        for metric in metrics:
            gains = [round(at[above, seed][metric] - at[below, seed][metric], 2) for seed in SEEDS]
            line: dict[str, Any] = {"above": above, "below": below, "figure": metric}
            line |= {f"gain_{seed}": gain for seed, gain in zip(SEEDS, gains, strict=True)}
            line |= {"gain": round(mean(gains), 2), "holds_on": sum(gain > 0 for gain in gains)}
            lines.append(line)
    return lines


def write(rows: list[dict[str, Any]]) -> None:
    """Write three tables: all runs, means over the seeds, and the orderings."""
    settings = {"sizes": SIZES, "seen_by": VISIBLE_TO, "kinds": KINDS, "vit": VIT, "px": PX}
    settings |= {
        "supervised": (STEPS, TENTH_STEPS, BATCH, RATE),
        "pretraining": (PRETRAIN_STEPS, PRETRAIN_BATCH, PRETRAIN_RATE),
        "k_branch": (K_BRANCH_STEPS, K_BRANCH_BATCH, K_BRANCH_RATE),
    }
    write_results("ordering_runs", rows, settings)
    write_results("ordering", summarise(rows), settings)
    write_results("ordering_gains", compare(rows), settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the runs; complete runs in it are not repeated")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of runs, with * for any characters")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"seeds instead of {SEEDS}; {PILOT_SEED} is for pilots")
    parser.add_argument("--steps", type=int, help="number of steps, instead of the design's")
    parser.add_argument("--rate", type=float, help="learning rate, instead of the design's")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(args.workers, initializer=start_worker) as pool:
        work = args.work or Path(name)

        def all_of(runs: Iterable[Run]) -> list[dict[str, Any]]:
            wanted = [run for run in runs if any(fnmatch(run.name, only) for only in args.only)]
            list(pool.map(build, sorted({run.seed for run in wanted}), repeat(work)))
            rows = []
            for row in pool.map(measure, wanted, repeat(work)):
                rows.append(row)
                print(row, flush=True)
            return rows

        seeds = args.seeds or SEEDS
        rows = all_of(
            Run(kind, seed, args.rate or rate_of(kind), args.steps or steps_of(kind))
            for kind, seed in product(KINDS, seeds)
        )
    if args.only == ["*"] and not (args.seeds or args.steps or args.rate):
        write(rows)


if __name__ == "__main__":
    main()
