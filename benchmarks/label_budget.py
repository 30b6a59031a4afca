"""Active learning on UC-Merced: MGE + clustering against random queries, balanced and imbalanced, three runs each.

    python benchmarks/label_budget.py --source UCMerced --work runs             # keeps and continues runs in `runs`
    python benchmarks/label_budget.py --source UCMerced --work runs --seeds 0   # some runs, without writing results

The experiment of Möllenbrok & Demir (docs/methods.md, Label-budget loop), run with the product's commands and reduced
to two CPU cores: the backbone of configs/pretrain/byol_ucmerced_small.yaml and the loops of
configs/active_learning/ucmerced_small.yaml. These files list the reductions. Runs with the same seed and scenario share
split, first images and initial weights.
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

from rspretrain.active_learning.curves import CURVE_METRICS, RUNS_NOTE, compare, draw_curves, margins, means, read_run

ROOT = Path(__file__).parents[1]
PRETRAIN, LOOP = "configs/pretrain/byol_ucmerced_small.yaml", "configs/active_learning/ucmerced_small.yaml"
SEEDS, SCENARIOS, QUERIES = (0, 1, 2), (1, 3), ("mge", "random")
METRICS = CURVE_METRICS[True]
Results = dict[str, Any]  # content of a loop's active.json
NUM_LABELS = 180  # the paper reports results at this number of labels


@dataclass(frozen=True)
class Run:
    """One label-budget loop."""

    seed: int
    scenario: int
    query: str

    def folder(self, work: Path) -> Path:
        """Its run.dir."""
        return work / f"scenario_{self.scenario}" / f"{self.query}_{self.seed}"


def launch(launcher: str, *arguments: str, threads: int) -> None:
    """Run a launcher or shard script with its output on the terminal. CalledProcessError if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, launcher, *arguments], cwd=ROOT, env=environment, check=True)


def pretrain(source: Path, work: Path, threads: int) -> Path:
    """The pretrained backbone of all loops. Builds shards and trains unless they exist."""
    launch("shards/build.py", "ucmerced", "--source", str(source), "--out", str(work / "shards"), threads=threads)
    run = work / "byol"
    if not (run / "export/rgb").exists():
        resume = ["--resume"] if run.exists() else []
        overrides = [f"data.shards={work / 'shards'}", f"run.dir={run}", "strategy.name=single", "watch.wandb=off"]
        launch("launchers/pretrain.py", "--config", PRETRAIN, *resume, *overrides, threads=threads)
    return run / "export/rgb"


def run_loop(run: Run, backbone: Path, work: Path) -> Results:
    """Run one loop to its end, with one thread."""
    folder, started = run.folder(work), time.perf_counter()
    resume = ["--resume"] if folder.exists() else []
    choices = [f"budget.seed={run.seed}", f"budget.scenario={run.scenario}", f"query.name={run.query}"]
    paths = [f"data.shards={work / 'shards'}", f"backbone.rgb={backbone}", f"run.dir={folder}"]
    launch("launchers/active_learning.py", "--config", LOOP, *resume, *paths, *choices, threads=1)
    print(f"{folder}: {time.perf_counter() - started:.0f} s", flush=True)
    return read_run(folder)


def round_rows(runs: list[Results]) -> list[dict[str, Any]]:
    """One row per round of each loop, in percent."""
    return [
        {
            **{name: run[name] for name in ("scenario", "query", "seed")},
            **{name: point[name] for name in ("round", "labels")},
            **{name: round(100 * point[name], 2) for name in METRICS},
        }
        for run in runs
        for point in run["rounds"]
    ]


def summary(runs: list[Results]) -> list[dict[str, Any]]:
    """Mean of each query and their difference with its interval: at NUM_LABELS labels, and over the queried rounds."""
    rows = []
    for scenario, (when, at) in product(SCENARIOS, ((f"{NUM_LABELS} labels", NUM_LABELS), ("mean of rounds", None))):
        some = [run for run in runs if run["scenario"] == scenario]
        mean = {(row["method"], row["metric"]): row["mean"] for row in means(some, at)}
        margin = {row["metric"]: row for row in margins(some, at)}
        for metric in METRICS:
            rows.append(
                {
                    "scenario": scenario,
                    "when": when,
                    "figure": metric,
                    "seeds": margin[metric]["num"],
                    **{query: round(100 * mean[query, metric], 1) for query in QUERIES},
                    "margin": round(100 * margin[metric]["mean"], 2),
                    "half_width": round(100 * margin[metric]["half_width"], 2),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder that contains UCMerced_LandUse")
    parser.add_argument("--work", type=Path, help="folder for the runs; complete runs in it are not repeated")
    parser.add_argument("--seeds", type=int, nargs="+", help=f"seeds other than {SEEDS}; no results are written")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="number of parallel loops")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.workers) as pool:
        work = (args.work or Path(name)).resolve()
        backbone = pretrain(args.source.resolve(), work, args.workers)
        wanted = [Run(*one) for one in product(args.seeds or SEEDS, SCENARIOS, QUERIES)]
        runs = list(pool.map(lambda run: run_loop(run, backbone, work), wanted))
    if not args.seeds:
        settings = {"pretrain": PRETRAIN, "loop": LOOP, "at": NUM_LABELS}
        write_results("label_budget_rounds", round_rows(runs), settings)
        write_results("label_budget", summary(runs), settings)
        draw_curves(compare(runs), FOLDER / "label_budget.png", f"UC-Merced, {len(SEEDS)} runs each", RUNS_NOTE)


if __name__ == "__main__":
    main()
