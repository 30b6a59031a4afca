"""Gain of pretraining in the demo, for three seeds.

python benchmarks/demo_seeds.py [--seeds 0 1 2]

Each seed has its own generated archive, shards, run of the demo's configuration in one process, and random network as
the baseline, as in `make demo`.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from results import write_results

from rspretrain.files import read_json

ROOT = Path(__file__).parents[1]
PAIRS = 1000  # as in the Makefile
METRICS = ("ap_macro", "ap_micro")


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


def one_seed(seed: int, folder: Path) -> list[dict[str, Any]]:
    archive, shards, out = folder / "archive", folder / "shards", folder / "run"
    started = time.perf_counter()
    run(
        sys.executable, "shards/demo.py", "--out", archive, "--pairs", str(PAIRS), "--seed", str(seed), "--workers", "2"
    )
    sources = (f"S2={archive}", f"S1={archive}", f"splits={archive}")
    build = (sys.executable, "shards/build.py", "bigearthnet", "--source", *sources, "--out", shards)
    run(*build, "--samples-per-shard", "64", "--workers", "2")
    overrides = (f"data.shards={shards}", f"run.dir={out}", f"run.seed={seed}", "watch.wandb=off")
    run(sys.executable, "launchers/pretrain.py", "--config", "dual_simclr_demo", *overrides)
    backbones = (out / "export/s1", out / "export/s2")
    probe = (sys.executable, "launchers/probe.py", "--backbone", *backbones, "--shards", shards)
    run(*probe, "--random-baseline", "--seed", str(seed), "--json", folder / "probe.json")
    seconds = round(time.perf_counter() - started)
    found = read_json(folder / "probe.json")
    return [
        {"seed": seed, "sensor": each["contract"]["sensor"], "features": name, "seconds": seconds}
        | {f"{kind}_{metric}": round(100 * result[kind][metric], 1) for kind in ("linear", "knn") for metric in METRICS}
        for each in found["backbones"]
        for name, result in each["results"].items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    rows = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            rows += one_seed(seed, Path(folder))
    for sensor in ("s1", "s2"):
        for features in ("random", "pretrained"):
            mine = [row for row in rows if (row["sensor"], row["features"]) == (sensor, features)]
            means = {key: round(statistics.mean(row[key] for row in mine), 1) for key in mine[0] if "_ap_" in key}
            rows.append({"seed": "mean", "sensor": sensor, "features": features, **means})
    write_results("demo_seeds", rows, {"seeds": args.seeds, "pairs": PAIRS})


if __name__ == "__main__":
    main()
