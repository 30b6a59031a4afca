"""Accuracy of the health verdict: 12 injected failures and 12 healthy runs of 200 steps.

    python benchmarks/collapse.py                    # all 24, then held-out runs: the same failures, other healthy runs
    python benchmarks/collapse.py --only momentum_0  # some of them, without writing results

Each run uses the product's loop and objectives on simulated land (archives/simulate.py), at 32 px with tiny networks.
Failures are injected by settings if possible, otherwise by replacing a part of the objective or of the batches
(collapse_runs.py).
"""

import argparse
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from fnmatch import fnmatch
from itertools import repeat
from pathlib import Path

import torch
from collapse_runs import FAULTS, HEALTHY, OTHERS, Land, Run
from results import write_results

from rspretrain import config
from rspretrain.engine.job import prepare
from rspretrain.engine.trainer import train
from rspretrain.observe.sinks import read_metrics
from rspretrain.observe.verdict import LEVELS, HealthMonitor, HealthSettings
from rspretrain.shardset.building.build import build_shards
from rspretrain.world import World

STEPS = 200
ALL = FAULTS + HEALTHY + OTHERS


def measure(run: Run, folder: Path, seed: int, overrides: Sequence[str] = ()) -> dict[str, object]:
    """Train on <folder>/shards and evaluate the verdict after every line; one row of the table."""
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
    metrics, ended = settings.run.dir / "metrics.jsonl", settings.run.dir / "ended"
    if not ended.exists():
        shutil.rmtree(settings.run.dir, ignore_errors=True)  # left by an interrupted run
        job = run.plant(prepare(settings, World(0, 1, 0, torch.device("cpu")), deepspeed_launcher=False))
        with suppress(RuntimeError):  # too many rejected steps in a row; the metrics have them
            train(job, resume=False, log=lambda line: None)
        ended.touch()
    return {"run": run.name, "seed": seed, **judge_file(metrics, run.fits)}


def judge_file(path: Path, fits: Sequence[str]) -> dict[str, object]:
    """Highest verdict, the step that first named the right cause (for a healthy run: any), and the message."""
    monitor = HealthMonitor(HealthSettings())
    level, step, causes, message = 0, None, {}, ""
    for line in read_metrics(path):
        verdict = monitor.add(line)
        level = max(level, verdict.level)
        causes |= dict.fromkeys(finding.cause for finding, _ in verdict.findings)
        named = [finding for finding, _ in verdict.findings[:1] if finding.cause in fits or not fits]
        if named and step is None:
            step, message = int(line["step"]), f"{named[0].reason}. {named[0].remedy}"
    return {
        "fault": bool(fits), "verdict": LEVELS[level], "as_wanted": (step is not None) == bool(fits),
        "step": step, "causes": " ".join(causes), "reason": message,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="names of runs, with * for any characters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--work", type=Path, help="folder for the runs; runs in it are evaluated, not repeated")
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
    """`measure` for the run with this index, because the functions of a run cannot be pickled."""
    return measure(ALL[number], folder, seed)


if __name__ == "__main__":
    main()
