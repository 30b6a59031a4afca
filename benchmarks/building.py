"""Speed of building and verifying shards, compared with rasterio + webdataset.ShardWriter.

python benchmarks/building.py [--pairs 1000] [--rounds 5] [--samples-per-shard 128] [--folder FOLDER]

The input is a generated archive in BigEarthNet-MM's layout (14 GeoTIFFs and 2 JSON files per pair), in the page cache.
Our time covers all of `shards/build.py`: process start, listing, pixels, index, statistics, checksums, fsync. The
competitor's time (building_competitor.py) covers the loop over the pairs only, without its imports (1.3 s for
webdataset's torch); it writes no index, checksums or statistics and does not fsync. The run checks that both outputs
have the same pixels and labels.

`pairs_per_cpu_s` uses the CPU time of all processes: the rate per core, which other jobs on the machine hardly change.
`pairs_per_s` uses wall time. Ratios are taken within a round; values are medians and the best round. `running_…`
excludes the start (half of it imports) and the finish, which do not depend on the number of pairs: the time of the same
build with 20 pairs is subtracted. This is the rate for an archive of half a million pairs. Shards are small, so that
1,000 pairs give several shards per worker. Everything is written to FOLDER: a tmpfs shows the rate without a disk
limit, and `bytes written and synced` is the rate of the disk.
"""

import argparse
import contextlib
import ctypes
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from results import write_results

from rspretrain.archives.corine import label_sets
from rspretrain.patch import key_of
from rspretrain.shardset.inspection.verify import verify

ROOT = Path(__file__).parents[1]
PROCESSES = (1, 2)
FEW = 20  # pairs of the small archive, whose build measures start and finish


class Cost(NamedTuple):
    cpu_s: float
    wall_s: float


class Bench(NamedTuple):
    archive: Path
    few: Path
    out: Path
    samples_per_shard: int

    def folder(self, name: str) -> Path:
        """An empty folder to write into; the output of the previous round is synced and deleted."""
        shutil.rmtree(self.out / name, ignore_errors=True)
        os.sync()
        return self.out / name


def of_children(run: Callable[[], None]) -> Cost:
    """Cost of a call in all descendant processes, fork servers that outlive their parent included."""
    before, started = cpu_of_children(), time.perf_counter()
    run()
    wall_s = time.perf_counter() - started
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    return Cost(cpu_of_children() - before, wall_s)


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def adopt_orphans() -> None:
    """Make orphaned processes children of this one, so that their CPU time is counted."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def ours(bench: Bench, workers: int) -> Cost:
    return build(bench.archive, bench.folder(f"ours-{workers}"), bench.samples_per_shard, workers)


def ours_on_few(bench: Bench, workers: int) -> Cost:
    return build(bench.few, bench.folder("few"), FEW // workers, workers)


def build(archive: Path, out: Path, samples_per_shard: int, workers: int) -> Cost:
    command = [sys.executable, "shards/build.py", "bigearthnet", "--out", str(out)]
    command += ["--source", *(f"{source}={archive}" for source in ("S2", "S1", "splits"))]
    command += ["--samples-per-shard", str(samples_per_shard), "--workers", str(workers)]
    return of_children(lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL))


def plain(bench: Bench, processes: int) -> Cost:
    """Each process builds its part of the pairs; only the loops are timed."""
    out = bench.folder(f"plain-{processes}")
    script = [sys.executable, str(Path(__file__).with_name("building_competitor.py")), str(bench.archive), str(out)]
    script += ["--samples-per-shard", str(bench.samples_per_shard), "--part"]
    parts = [f"{number + 1}/{processes}" for number in range(processes)]
    running = [subprocess.Popen([*script, part], stdout=subprocess.PIPE) for part in parts]
    times = [json.loads(process.communicate()[0]) for process in running]
    return Cost(sum(each["cpu_s"] for each in times), max(each["wall_s"] for each in times))


def written_and_synced(bench: Bench) -> Cost:
    """Write the bytes of our shards from memory: the cost of the disk alone."""
    folder = bench.folder("copy")
    folder.mkdir()
    shards = {path.name: path.read_bytes() for path in (bench.out / "ours-1").glob("*.tar")}
    cpu, started = time.process_time(), time.perf_counter()
    for name, data in shards.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())
    return Cost(time.process_time() - cpu, time.perf_counter() - started)


def verified(bench: Bench, workers: int) -> Cost:
    """Verify in this process, without starting Python."""
    cpu, started = time.process_time(), time.perf_counter()
    faults = verify(bench.out / "ours-1", workers)
    assert not faults, faults
    return Cost(time.process_time() - cpu, time.perf_counter() - started)


def contents(tars: list[Path]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, suffix -> bytes) of each sample."""
    for path in tars:
        with tarfile.open(path) as tar:
            samples: dict[str, dict[str, bytes]] = {}
            for member in tar:
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key_of(key), {})[suffix] = tar.extractfile(member).read()
        yield from samples.items()


def check_equal(bench: Bench, pairs: int) -> None:
    """Assert that both outputs have the same arrays, bit for bit, and the same labels."""
    theirs = dict(contents(sorted((bench.out / "plain-2").glob("*.tar"))))
    keys = set()
    for key, sample in contents(sorted((bench.out / "ours-2").glob("*.tar"))):
        keys.add(key)
        assert sample.keys() == theirs[key].keys(), (key, sample.keys(), theirs[key].keys())
        for suffix in sample.keys() - {"json"}:
            one, other = (np.load(io.BytesIO(each[suffix])) for each in (sample, theirs[key]))
            assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes()), key
        labels = {name: tuple(each) for name, each in json.loads(sample["json"])["labels"].items()}
        assert labels == label_sets(json.loads(theirs[key]["json"])["labels"]), key
    assert len(keys) == len(theirs) == pairs, (len(keys), len(theirs), pairs)


def measure(bench: Bench, rounds: int) -> dict[str, list[Cost]]:
    """Costs of all competitors per round, after one round that warms the page cache."""
    competitors: dict[str, Callable[[], Cost]] = {}
    for number in PROCESSES:
        competitors[f"rasterio + ShardWriter, {number}"] = lambda number=number: plain(bench, number)
        competitors[f"rspretrain, {number}"] = lambda number=number: ours(bench, number)
        competitors[f"start and finish, {number}"] = lambda number=number: ours_on_few(bench, number)
    competitors["bytes written and synced"] = lambda: written_and_synced(bench)
    for number in PROCESSES:
        competitors[f"verify, {number}"] = lambda number=number: verified(bench, number)
    costs: dict[str, list[Cost]] = {name: [] for name in competitors}
    for number in range(rounds + 1):
        for name, run in competitors.items():
            cost = run()
            if number:
                costs[name].append(cost)
        print(f"round {number} of {rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
    return costs


def table(costs: dict[str, list[Cost]], pairs: int, size: int) -> Iterator[dict[str, object]]:
    """Rows of rates. `of_plain_…`: ratio to the competitor with as many processes; `of_one_…`: to one process."""
    for name, mine in costs.items():
        kind, _, number = name.partition(", ")
        row: dict[str, object] = {"what": kind, "processes": int(number or 1)}
        if kind == "start and finish":
            yield row | {"cpu_s": median(cost.cpu_s for cost in mine), "wall_s": median(cost.wall_s for cost in mine)}
            continue
        for column, amount in (("pairs_per", pairs), ("mb_per", size / 1e6)):
            row[f"{column}_cpu_s"] = median(amount / cost.cpu_s for cost in mine)
            row[f"{column}_s"] = median(amount / cost.wall_s for cost in mine)
        row["best_pairs_per_cpu_s"] = round(max(pairs / cost.cpu_s for cost in mine), 1)
        row["best_pairs_per_s"] = round(max(pairs / cost.wall_s for cost in mine), 1)
        if kind == "rspretrain":
            other = costs[f"rasterio + ShardWriter, {number}"]
            row["of_plain_cpu"] = ratio([cost.cpu_s for cost in other], [cost.cpu_s for cost in mine])
            row["of_plain_wall"] = ratio([cost.wall_s for cost in other], [cost.wall_s for cost in mine])
            more = running(costs, number)
            row["running_pairs_per_cpu_s"] = median((pairs - FEW) / cost.cpu_s for cost in more)
            row["running_pairs_per_s"] = median((pairs - FEW) / cost.wall_s for cost in more)
            one = [cost.wall_s for cost in running(costs, "1")]
            row["running_of_one_wall"] = ratio(one, [cost.wall_s for cost in more])
        if number and int(number) > 1:
            one = costs[f"{kind}, 1"]
            row["of_one_wall"] = ratio([cost.wall_s for cost in one], [cost.wall_s for cost in mine])
        yield row


def running(costs: dict[str, list[Cost]], number: str) -> list[Cost]:
    """Costs per round without start and finish: those of the small archive are subtracted."""
    both = zip(costs[f"rspretrain, {number}"], costs[f"start and finish, {number}"], strict=True)
    return [Cost(whole.cpu_s - few.cpu_s, whole.wall_s - few.wall_s) for whole, few in both]


def median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


def ratio(others: list[float], mine: list[float]) -> float:
    return median(other / own for other, own in zip(others, mine, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples-per-shard", type=int, default=128)
    parser.add_argument("--folder", type=Path, help="folder to write to (default: the system's temporary folder)")
    parser.add_argument("--name", default="building", help="name of the results")
    args = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bench = Bench(Path(folder) / "archive", Path(folder) / "few-pairs", Path(folder), args.samples_per_shard)
        # In a separate process: a pool in this one would leave a child for which `of_children` would wait forever.
        for archive, pairs in ((bench.archive, args.pairs), (bench.few, FEW)):
            command = [sys.executable, "shards/demo.py", "--out", str(archive), "--pairs", str(pairs)]
            subprocess.run(command, cwd=ROOT, check=True)
        costs = measure(bench, args.rounds)
        check_equal(bench, args.pairs)
        size = sum(path.stat().st_size for path in (bench.out / "ours-1").glob("*.tar"))
    settings = {"pairs": args.pairs, "rounds": args.rounds, "samples_per_shard": args.samples_per_shard, "bytes": size}
    write_results(args.name, list(table(costs, args.pairs, size)), settings | {"pixels_and_labels_equal": True})


if __name__ == "__main__":
    main()
