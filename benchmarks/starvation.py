"""Time that training waits for data, and CPU cost of the loader, for a small ViT on two sensors on a CPU.

python benchmarks/starvation.py [--pairs 1000] [--steps 60]

Dual-SimCLR with the ViT of SCT Fusion (6.5 and 6.9 M parameters) on generated BigEarthNet-MM pairs, raw shards,
checksums on. The metrics are those that each run writes to metrics.jsonl: the fraction of time that steps wait for data
(perf/data_wait_share) and the cores used by the loader's threads (perf/loader_cores). They are medians over all lines
but the first, which includes the start of the threads.

The other rows measure the loader alone at the rate of a GPU: batches are requested at a fixed number of pairs per
second, and the same two metrics are reported.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from results import write_results

from rspretrain import config
from rspretrain.archives.bigearthnet import BigEarthNet
from rspretrain.archives.demo import write_demo
from rspretrain.engine.job import prepare
from rspretrain.engine.trainer import train
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import open_shards
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.world import World

HERE = World(0, 1, 0, torch.device("cpu"))
RATES = (500, 1000, 2000, 4000)  # pairs per second; a ViT-S/16 with two sensors on one modern GPU takes about 1,000


def settings(shards: Path, out: Path, steps: int, batch: int) -> config.RunSettings:
    """Like configs/pretrain/dual_simclr_bigearthnet.yaml, with the small ViT."""
    tree = {
        "run": {"dir": str(out)},
        "data": {"shards": str(shards)},
        "sensors": {
            "s1": {"bands": ["VV", "VH"]},
            "s2": {"bands": ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]},
        },
        "backbone": {"name": "vit_sct"},
        "objective": {"name": "dual_simclr", "crop_px": 120},
        "train": {"global_batch": batch, "steps": steps, "checkpoint_minutes": None},
        "watch": {"every": 5, "wandb": "off"},
    }
    return config.parse(tree)


def while_training(shards: Path, out: Path, steps: int, batch: int) -> dict[str, float | str]:
    train(prepare(settings(shards, out, steps, batch), HERE, False), resume=False, log=print)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][1:]
    found = {
        name: statistics.median(line[f"perf/{name}"] for line in lines)
        for name in ("data_wait_share", "loader_cores", "samples_per_s")
    }
    return {"what": f"training vit_sct x 2, batch {batch}", **_rounded(found)}


def at_rate(shards: Path, rate: int, seconds: float = 10.0, batch: int = 64) -> dict[str, float | str]:
    """A consumer that takes `rate` pairs per second and computes nothing."""
    data = DataSettings(shards=shards)
    opened = open_shards(shards)
    loader = Loader(opened, data, list(opened.groups), global_batch=batch, seed=0, world=HERE)
    batches = loader.batches()
    for _ in itertools.islice(batches, loader.steps_per_epoch):  # checksums of the first epoch, page cache, threads
        pass
    waited, computed, began = loader.wait_s, loader.cpu_s, time.perf_counter()
    steps = round(seconds * rate / batch)
    for step in range(steps):
        next(batches)
        time.sleep(max(0.0, began + (step + 1) * batch / rate - time.perf_counter()))
    elapsed = time.perf_counter() - began
    batches.close()
    found = {
        "data_wait_share": (loader.wait_s - waited) / elapsed,
        "loader_cores": (loader.cpu_s - computed) / elapsed,
        "samples_per_s": steps * batch / elapsed,
    }
    return {"what": f"loader alone at {rate} pairs/s", **_rounded(found)}


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1 if name == "samples_per_s" else 5) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_demo(root / "archive", args.pairs, seed=0, workers=2)
        build_shards(BigEarthNet(s2=root / "archive", s1=root / "archive"), root / "shards", samples_per_shard=125)
        rows = [while_training(root / "shards", root / "run", args.steps, 32)]
        rows += [at_rate(root / "shards", rate) for rate in RATES]
    write_results("starvation", rows, {"pairs": args.pairs, "steps": args.steps})


if __name__ == "__main__":
    main()
