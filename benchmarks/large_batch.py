"""Memory of a large contrastive batch: whole, and in pieces with cached gradients (strategy.accumulate).

    python benchmarks/large_batch.py

Dual-SimCLR with two ViTs of 8 blocks, width 256 and 17 tokens, on pairs of random pixels. Each row is one step in its
own process. `memory_mb` is the growth of the process's peak memory during the step; `gradient` is the relative
difference of the gradient norm from that of the whole batch.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from results import write_results
from training_bench import CPU, Noise

from rspretrain import config
from rspretrain.engine.job import prepare, seed_torch
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.strategies import build_strategy
from rspretrain.world import World

# (pairs, pieces)
ROWS = ((256, 1), (512, 1), (512, 8), (4096, 64))
S2 = ("B02", "B03", "B04", "B08")


class Small(Noise):
    """Pairs of 24 pixels."""

    groups = (
        Group("s1_10m", "s1", ("VV", "VH"), "float32", (24, 24), 10.0, "db"),
        Group("s2_10m", "s2", S2, "uint16", (24, 24), 10.0, "dn"),
    )


def step(shards: Path, pairs: int, pieces: int) -> dict[str, float]:
    """Seconds, memory and results of one step."""
    torch.set_num_threads(1)
    tree = {
        "run": {"dir": shards.parent / "run", "seed": 0},
        "data": {"shards": shards, "prefetch": 1},
        "sensors": {"s1": {"bands": ["VV", "VH"]}, "s2": {"bands": S2}},
        "backbone": {"name": "vit_sct", "args": {"patch_size": 6}},
        "objective": {"name": "dual_simclr", "crop_px": 24, "px": 24},
        "strategy": {"name": "single", "accumulate": pieces},
        "train": {"global_batch": pairs, "steps": 1},
    }
    job = prepare(config.parse(tree), World(0, 1, 0, CPU), deepspeed_launcher=False)
    strategy = build_strategy(job.settings.strategy, job.world, job.objective, job.settings.optim)
    batch = next(batches := job.loader.batches())
    seed_torch(0)
    before, started = _peak_mb(), time.perf_counter()
    report = strategy.train_step(batch, 1e-4)
    elapsed = time.perf_counter() - started
    batches.close()  # type: ignore[attr-defined]
    return {
        "memory_mb": round(_peak_mb() - before),
        "seconds": round(elapsed, 1),
        "loss": report.loss.item(),
        "grad_norm": report.grad_norm,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure all rows, or the one given by arguments."""
    if len(sys.argv) > 1:
        print(json.dumps(step(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        build_shards(Small(max(pairs for pairs, _ in ROWS)), shards, samples_per_shard=512)
        for pairs, pieces in ROWS:
            command = [sys.executable, __file__, str(shards), str(pairs), str(pieces)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            rows.append({"pairs": pairs, "pieces": pieces, **json.loads(output)})
            print(rows[-1], flush=True)
    whole = {row["pairs"]: row["grad_norm"] for row in rows if row["pieces"] == 1}
    for row in rows:
        if row["pieces"] > 1 and row["pairs"] in whole:
            row["gradient"] = f"{abs(row['grad_norm'] / whole[row['pairs']] - 1):.1e}"
    write_results("large_batch", rows, {"backbone": "vit_sct, patch 6 at 24 px", "objective": "dual_simclr"})


if __name__ == "__main__":
    main()
