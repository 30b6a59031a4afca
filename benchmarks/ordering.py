"""Whether the orderings that the papers report come out on generated archives whose sensors see parts of the classes.

    python benchmarks/ordering.py --work runs                    # everything; what lies in `runs` is kept
    python benchmarks/ordering.py --work runs --only '*/sct/*'   # some runs, without writing results
    python benchmarks/ordering.py --work runs --seeds 100 --only '*/s2/*' --steps 1600    # a pilot

SCT Fusion > early fusion > Sentinel-2 > Sentinel-1 from scratch on all labels; pretraining by Dual-SimCLR > scratch on
a tenth of them; K-Branch with multi-attention > without. Three seeds, each an archive of its own (ordering_land.py) and
a seed of training. All in the product's own loops; the test split is scored once by each run, with the weights that
were best on the validation split. What is fixed here was chosen on the validation split of an archive of another seed.
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
from ordering_land import BANDS, SEEN_BY, Land
from results import write_results

from rspretrain import config
from rspretrain.engine.finetune import prepare_finetune
from rspretrain.engine.job import prepare
from rspretrain.engine.trainer import train
from rspretrain.files import read_json, write_json
from rspretrain.shardset.building.build import build_shards
from rspretrain.world import World

SEEDS, PILOT_SEED = (3, 4, 5), 100  # 0, 1 and 2 were those of a shorter design, whose test figures were seen
SIZES = {"train": 1000, "val": 150, "test": 400}
STEPS, TENTH_STEPS, BATCH, RATE, WARMUP, EXAMINE = 1600, 400, 32, 2e-3, 25, 50
PRETRAIN_STEPS, PRETRAIN_BATCH, PRETRAIN_RATE = 300, 64, 1e-3
K_BRANCH_STEPS, K_BRANCH_BATCH, K_BRANCH_RATE = 250, 16, 1e-3  # the paper's rate
PX = 60  # of 120: a patch of 10 is 200 m
VIT = {"name": "vit_tiny_patch16_224", "args": {"patch_size": 10, "embed_dim": 64, "depth": 4, "num_heads": 4}}
S1 = {"s1": {"bands": ["VV", "VH"], "normalise": "bigearthnet"}}
S2 = {"s2": {"bands": [*BANDS["s2_10m"], *BANDS["s2_20m"]], "normalise": "bigearthnet"}}  # methods.md D.2
GRIDS = {"s2": {"bands": [band for bands in BANDS.values() for band in bands], "normalise": "bigearthnet"}}
# methods.md D.4: what the networks of both sensors see; a lone sensor has stochastic depth only.
VARIED = {"independent": True, "symmetry": "flips", "scale": [0.8, 1.0], "sensor_drop": 0.5}
PLAIN = {"symmetry": "none"}
SCT = {"sensors": S1 | S2, "classifier": {"name": "sct_fusion", "drop_path": 0.25}, "views": VARIED}
DEEP = VIT | {"px": PX, "drop_path": 0.25}
K_BRANCH = {"name": "k_branch", "filters": "released"}  # half the arithmetic of the paper's filters
# Kind of run -> what of a fine-tuning configuration is its own.
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
FIGURES = ("ap_macro", "ap_micro", "f2_macro", "recall_samples", "f1_samples", "f2_samples")
SIGHTS = {"both": ("s1", "s2"), "s2_only": ("s2",), "s1_only": ("s1",)}
# What should be above what, by which figures.
ORDERINGS = [
    *((above, below, FIGURES[:3]) for above, below in (("sct", "early"), ("early", "s2"), ("s2", "s1"))),
    ("sct_tenth_pretrained", "sct_tenth", FIGURES[:3]),
    ("k_branch", "k_branch_plain", FIGURES[3:]),
]


@dataclass(frozen=True)
class Run:
    """One training of one kind on the archive of its seed."""

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
    """How many steps a kind's supervised runs have."""
    if kind.startswith("k_branch"):
        return K_BRANCH_STEPS
    return TENTH_STEPS if "tenth" in kind else STEPS


def common(run: Run, work: Path, batch: int, samples: float) -> dict[str, Any]:
    """The sections of a configuration that all runs share; `samples` an epoch."""
    # On the CPU that this was written on, bf16 takes 2/3 of the time of fp32 in convolutions, and 3/2 in these ViTs.
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
    """Train and test; results.json."""
    grids = run.kind.startswith("k_branch")
    batch = K_BRANCH_BATCH if grids else BATCH
    kind = {"labels": {"nomenclature": "s2" if grids else "all"}, **KINDS[run.kind]}
    samples = SIZES["train"] * kind["labels"].get("fraction", 1.0)
    tree = {
        **common(run, work, batch, samples),
        **kind,
        "validation": {"every_epochs": EXAMINE * batch / samples, "resamples": 0},
    }
    if run.kind == "sct_tenth_pretrained":
        exports = pretrain(run.seed, work)
        tree["backbone"] = {name: exports / name for name in ("s1", "s2")}
    settings = config.parse_as(config.FinetuneSettings, tree)
    job = prepare_finetune(settings, World(0, 1, 0, torch.device("cpu")), deepspeed_launcher=False)
    train(job, resume=settings.run.dir.exists(), log=lambda line: None)
    return read_json(settings.run.dir / "results.json")


def pretrain(seed: int, work: Path) -> Path:
    """Dual-SimCLR on the training split without its labels; the folder of the exports. Trains unless they lie there."""
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
    """A run's line of figures in percent; kept in a file, so that nothing is computed twice.

    Of pilots those of the validation split only: what they decide must not have seen the test split.
    """
    kept = work / run.name / "row.json"
    if kept.exists():
        return read_json(kept)
    started = time.process_time()
    found = finetune(run, work)
    best = max(examination["ap_macro"] for examination in found["validation"])
    row = {**asdict(run), "step": found["step"], "val_ap_macro": percent(best)}
    row |= {} if run.seed == PILOT_SEED else figures_of(found)
    row["cpu_seconds"] = round(time.process_time() - started)
    write_json(kept, row)
    return row


def percent(share: float) -> float:
    return round(100 * share, 2)


def figures_of(results: dict[str, Any]) -> dict[str, float]:
    """Test figures, and the mean AP of the classes that both sensors see, Sentinel-2 alone, and Sentinel-1 alone."""
    test, of_class = results["test"], dict(zip(results["classes"], results["test"]["ap_per_class"], strict=True))
    row = {name: percent(test[name]) for name in FIGURES}
    for name, sensors in SIGHTS.items():
        seen = [score for label, score in of_class.items() if SEEN_BY[label] == sensors]
        row |= {f"ap_{name}": percent(mean(seen))} if seen else {}
    return row


def start_worker() -> None:
    """One thread for each of the processes that share the cores."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)


def build(seed: int, work: Path) -> None:
    """The archive of a seed, as shards."""
    build_shards(Land(seed, **SIZES), work / str(seed) / "shards", samples_per_shard=250, workers=1)


def summarise(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and deviation over the seeds, a line a kind."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["kind"], []).append(row)
    told = []
    for kind, some in groups.items():
        line: dict[str, Any] = {"kind": kind, "lr": some[0]["lr"], "seeds": len(some)}
        for name in (*FIGURES, *(f"ap_{sight}" for sight in SIGHTS)):
            if name in some[0]:
                values = [row[name] for row in some]
                line |= {name: round(mean(values), 1), f"{name}_std": round(stdev(values), 1)}
        told.append(line)
    return told


def compare(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each ordering and figure of which all runs are there: the difference on every seed, how often > 0."""
    at = {(row["kind"], row["seed"]): row for row in rows}
    told = []
    for above, below, figures in ORDERINGS:
        if not all((kind, seed) in at for kind in (above, below) for seed in SEEDS):
            continue
        for figure in figures:
            gains = [round(at[above, seed][figure] - at[below, seed][figure], 2) for seed in SEEDS]
            line: dict[str, Any] = {"above": above, "below": below, "figure": figure}
            line |= {f"gain_{seed}": gain for seed, gain in zip(SEEDS, gains, strict=True)}
            line |= {"gain": round(mean(gains), 2), "holds_on": sum(gain > 0 for gain in gains)}
            told.append(line)
    return told


def write(rows: list[dict[str, Any]]) -> None:
    """The three tables: every run, means over the seeds, and the orderings."""
    settings = {"sizes": SIZES, "seen_by": SEEN_BY, "kinds": KINDS, "vit": VIT, "px": PX}
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
    parser.add_argument("--work", type=Path, help="a folder to keep; runs that lie there are not trained again")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of runs, with * for any characters")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"others than {SEEDS}; {PILOT_SEED} is that of pilots")
    parser.add_argument("--steps", type=int, help="others than those of the design")
    parser.add_argument("--rate", type=float, help="learning rate, another than that of the design")
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
