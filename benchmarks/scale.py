"""Time and memory of opening, ordering and seeking with ten million samples, and the shards per node of 64 x 8 ranks.

python benchmarks/scale.py [--samples 10000000]

The index and the manifest are real files. The tars do not exist, because no pixel is read. Each measurement runs in a
new process, so that the process's memory is that of the measurement; `torch_mb` is its memory before a shard set is
opened. `step_us` is the time in which a rank computes its samples of one step, in worlds of 8 to 4,096 ranks.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from results import write_results

from rspretrain.sensors import Group
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.shardset.manifest import FORMAT, VERSION, GroupEntry, Manifest, ShardEntry, dump_manifest
from rspretrain.shardset.record import fixed_layout
from rspretrain.streaming.loader import Loader
from rspretrain.streaming.settings import DataSettings
from rspretrain.world import World

SHARD, NODES, RANKS_A_NODE, BATCH = 1024, 64, 8, 4096
GROUP = Group("s2_10m", "s2", ("B02", "B03", "B04", "B08"), "uint16", (120, 120), 10.0, "dn")


def write_set(folder: Path, samples: int) -> None:
    """Write index.parquet and manifest.json of a shard set of one group, with 80 % training samples."""
    layout = fixed_layout([GROUP], False, 1024)
    number = np.arange(samples)
    columns = {
        "key": pa.array([f"patch-{i:08d}" for i in range(samples)]),
        "shard": pa.array((number // SHARD).astype(np.int32)),
        "record": pa.array((number % SHARD).astype(np.int32)),
        "offset": pa.array(number % SHARD * layout.record_bytes),
        "bytes": pa.array(np.full(samples, layout.record_bytes)),
        "checksum": pa.array(np.random.default_rng(0).integers(0, 2**63, samples).astype(np.uint64)),
        "split": pa.array(np.where(number % 5 == 0, "test", "train")),
    }
    pq.write_table(pa.table(columns), folder / "index.parquet", compression="zstd", row_group_size=65_536)
    shards = tuple(
        ShardEntry(name=f"huge-{i:06d}.tar", samples=min(SHARD, samples - i * SHARD), bytes=0, sha256="", uniform=True)
        for i in range(-(-samples // SHARD))
    )
    test = -(-samples // 5)
    manifest = Manifest(
        format=FORMAT, version=VERSION, archive="huge", options={}, plan_sha256="", codec="raw", samples=samples,
        groups=(GroupEntry(**vars(GROUP), max_shape=(120, 120)),), nomenclatures={},
        splits={"test": test, "train": samples - test}, statistics_over="train", statistics={}, layout=layout,
        shards=shards, index_sha256="", checksum="",
    )  # fmt: skip
    (folder / "manifest.json").write_bytes(dump_manifest(manifest))


def peak_mb() -> float:
    """Peak memory of this process in MB (ru_maxrss would be the parent's after a fork)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def measure(folder: Path) -> dict[str, float]:
    """Seconds and megabytes of one rank in the middle of a large world."""
    found = {"torch_mb": peak_mb()}
    started = time.perf_counter()
    shards = open_shards(folder)
    found["open_s"] = time.perf_counter() - started
    settings = DataSettings(shards=folder, split="train", streams=NODES, window=16)
    this_world = World(77, NODES * RANKS_A_NODE, 5, torch.device("cpu"))
    loader = Loader(shards, settings, ["s2_10m"], global_batch=BATCH, seed=1, world=this_world)
    found["order_s"] = time.perf_counter() - started - found["open_s"]
    seeks = []
    for step in (1_234_567, 3, 987_654_321):
        began = time.perf_counter()
        next(loader._work(step))
        seeks.append(time.perf_counter() - began)
    found |= {"seek_s": max(seeks), "all_s": time.perf_counter() - started}
    found["all_mb"] = peak_mb()
    found |= {f"step_us_{nodes * RANKS_A_NODE}_ranks": step_us(shards, nodes) for nodes in (1, 8, 64, 512)}
    own = [set(loader._plan.samplers[0].shards_of_stream(stream).tolist()) for stream in range(NODES)]
    found["shards"] = len(shards.manifest.shards)
    found["shards_a_node_at_most"] = max(map(len, own))
    found["shards_of_two_nodes"] = sum(map(len, own)) - len(set.union(*own))
    return found


def step_us(shards: ShardSet, nodes: int, steps: int = 50) -> float:
    """Microseconds in which a rank computes its samples of one step; 8 samples in worlds of any size."""
    world = nodes * RANKS_A_NODE
    settings = DataSettings(shards=shards.path, split="train", streams=nodes, window=16)
    this_world = World(world // 2, world, 0, torch.device("cpu"))
    work = Loader(shards, settings, ["s2_10m"], global_batch=8 * world, seed=1, world=this_world)._work(10)
    next(work)
    began = time.perf_counter()
    for _ in range(steps):
        next(work)
    return 1e6 * (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), args.samples)
        command = [sys.executable, __file__, "--measure", folder]
        rounds = [json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in "123"]
    best = min(rounds, key=lambda found: found["all_s"])
    for name, value in best.items():
        print(f"{name:<24}{value:>12.3f}")
    write_results("scale", [{"samples": args.samples, **best}], {"nodes": NODES, "ranks_a_node": RANKS_A_NODE})


if __name__ == "__main__":
    main()
