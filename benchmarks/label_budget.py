"""A budget of labels on UC-Merced: MGE + clustering against random choice, without and with imbalance, three runs each.

    python benchmarks/label_budget.py --source UCMerced --work runs             # what lies in `runs` is kept or goes on
    python benchmarks/label_budget.py --source UCMerced --work runs --seeds 0   # some runs, without writing results

The experiment of Möllenbrok & Demir (methods.md F) in the product's own commands, reduced to two CPU cores: backbone of
configs/pretrain/byol_ucmerced_small.yaml, loops of configs/active_learning/ucmerced_small.yaml, which say what is
reduced. Runs of one seed and scenario share split, first images and initial weights, whatever chooses the images.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from results import FOLDER, write_results

from rspretrain.active_learning.curves import OVER_RUNS, SHOWN, compare, draw_curves, margins, means, read_run

ROOT = Path(__file__).parents[1]
PRETRAIN, LOOP = "configs/pretrain/byol_ucmerced_small.yaml", "configs/active_learning/ucmerced_small.yaml"
SEEDS, SCENARIOS, QUERIES = (0, 1, 2), (1, 3), ("mge", "random")
FIGURES = SHOWN[True]
Told = dict[str, Any]  # active.json of a loop
AT = 180  # labels, where the paper has figures


@dataclass(frozen=True)
class Run:
    """One loop."""

    seed: int
    scenario: int
    query: str

    def folder(self, work: Path) -> Path:
        """Its run.dir."""
        return work / f"scenario_{self.scenario}" / f"{self.query}_{self.seed}"


def launch(launcher: str, *arguments: str, threads: int) -> None:
    """Run a launcher or shard script; its output goes to the person who waits. CalledProcessError where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, launcher, *arguments], cwd=ROOT, env=environment, check=True)


def pretrain(source: Path, work: Path, threads: int) -> Path:
    """The backbone that all loops start from; builds and trains what does not lie there."""
    launch("shards/build.py", "ucmerced", "--source", str(source), "--out", str(work / "shards"), threads=threads)
    run = work / "byol"
    if not (run / "export/rgb").exists():
        resume = ["--resume"] if run.exists() else []
        overrides = [f"data.shards={work / 'shards'}", f"run.dir={run}", "strategy.name=single", "watch.wandb=off"]
        launch("launchers/pretrain.py", "--config", PRETRAIN, *resume, *overrides, threads=threads)
    return run / "export/rgb"


def spend(run: Run, backbone: Path, work: Path) -> Told:
    """One loop to its end, with one thread; what it told of itself."""
    folder, started = run.folder(work), time.perf_counter()
    resume = ["--resume"] if folder.exists() else []
    choices = [f"budget.seed={run.seed}", f"budget.scenario={run.scenario}", f"query.name={run.query}"]
    places = [f"data.shards={work / 'shards'}", f"backbone.rgb={backbone}", f"run.dir={folder}"]
    launch("launchers/active_learning.py", "--config", LOOP, *resume, *places, *choices, threads=1)
    print(f"{folder}: {time.perf_counter() - started:.0f} s", flush=True)
    return read_run(folder)


def rows_of(runs: list[Told]) -> list[dict[str, Any]]:
    """Every round of every loop, in percent."""
    return [
        {
            **{name: run[name] for name in ("scenario", "query", "seed")},
            **{name: point[name] for name in ("round", "labels")},
            **{name: round(100 * point[name], 2) for name in FIGURES},
        }
        for run in runs
        for point in run["rounds"]
    ]


def summary(runs: list[Told]) -> list[dict[str, Any]]:
    """Means of both queries and their difference, with intervals: at AT labels, and over the rounds after a query."""
    told = []
    for scenario, (when, at) in product(SCENARIOS, ((f"{AT} labels", AT), ("mean of rounds", None))):
        some = [run for run in runs if run["scenario"] == scenario]
        found = {(row["method"], row["figure"]): row["mean"] for row in means(some, at)}
        above = {row["figure"]: row for row in margins(some, at)}
        for figure in FIGURES:
            told.append(
                {
                    "scenario": scenario,
                    "when": when,
                    "figure": figure,
                    "seeds": above[figure]["num"],
                    **{query: round(100 * found[query, figure], 1) for query in QUERIES},
                    "margin": round(100 * above[figure]["mean"], 2),
                    "half_width": round(100 * above[figure]["half_width"], 2),
                }
            )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="the folder that holds UCMerced_LandUse")
    parser.add_argument("--work", type=Path, help="a folder to keep; runs that lie there are not trained again")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"others than {SEEDS}, without writing results")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="loops at a time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.workers) as pool:
        work = (args.work or Path(name)).resolve()
        backbone = pretrain(args.source.resolve(), work, args.workers)
        wanted = [Run(*one) for one in product(args.seeds or SEEDS, SCENARIOS, QUERIES)]
        runs = list(pool.map(lambda run: spend(run, backbone, work), wanted))
    if not args.seeds:
        settings = {"pretrain": PRETRAIN, "loop": LOOP, "at": AT}
        write_results("label_budget_rounds", rows_of(runs), settings)
        write_results("label_budget", summary(runs), settings)
        draw_curves(compare(runs), FOLDER / "label_budget.png", f"UC-Merced, {len(SEEDS)} runs each", OVER_RUNS)


if __name__ == "__main__":
    main()
