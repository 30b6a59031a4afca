"""Cost of three archives as shards: bytes and CPU time per sample, one worker.

    python benchmarks/archive_costs.py

BigEarthNet-MM and SEN12MS are generated as for `loading.py`, AID's scenes are generated JPEGs of 600 x 600. An archive
is built twice, with few and with many samples, and the difference is the cost of a sample without start and finish. CPU
time is that of this process and its worker; other programs hardly change it.
"""

import argparse
import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from loading_archives import KINDS, field, write_all
from PIL import Image
from results import write_results

from rspretrain.archives.base import Archive
from rspretrain.archives.scenes import Aid
from rspretrain.shardset.building.build import build_shards

AID_PX, QUALITY = 600, 90  # of AID's JPEGs


class Source(NamedTuple):
    """An archive: how many samples the original has, how to write and how to open a generated one."""

    originals: int
    write: Callable[[Path, int], None]
    open: Callable[[Path], Archive]


def write_scene(root: Path, number: int) -> None:
    """A smooth scene with noise, in the folder of a class of AID."""
    rng = np.random.default_rng([5, number])
    pixels = 110 + 40 * field(rng, 3, 12, AID_PX) + rng.normal(0, 6, (3, AID_PX, AID_PX))
    path = root / "Airport" / f"airport_{number + 1}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(path, quality=QUALITY)


SOURCES = {
    "bigearthnet-mm": Source(590_326, KINDS["bigearthnet-mm"].write, KINDS["bigearthnet-mm"].open),
    "sen12ms": Source(180_662, KINDS["sen12ms"].write, KINDS["sen12ms"].open),
    "aid": Source(10_000, lambda root, samples: write_all(write_scene, root, samples), Aid),
}


def cpu_s() -> float:
    """CPU seconds of this process and of its finished children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def build(archive: Archive, out: Path) -> tuple[float, int]:
    """CPU seconds and bytes of the shards."""
    started = cpu_s()
    build_shards(archive, out, samples_per_shard=100, workers=1)
    return cpu_s() - started, sum(path.stat().st_size for path in out.glob("*.tar"))


def measure(name: str, few: int, many: int, rounds: int) -> dict[str, Any]:
    """The row of one archive."""
    source = SOURCES[name]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for samples in (few, many):
            source.write(root / f"archive-{samples}", samples)
        costs = []
        for turn in range(rounds):
            small, large = (
                build(source.open(root / f"archive-{samples}"), root / f"{turn}-{samples}") for samples in (few, many)
            )
            costs.append(((large[0] - small[0]) / (many - few), (large[1] - small[1]) / (many - few)))
    per_sample_s, size = statistics.median(cost[0] for cost in costs), costs[0][1]
    return {
        "archive": name,
        "samples": source.originals,
        "bytes_per_sample": round(size),
        "samples_per_cpu_s": round(1 / per_sample_s, 1),
        "shards_gb": round(size * source.originals / 1e9, 1),
        "build_core_minutes": round(per_sample_s * source.originals / 60, 1),
    }


def main() -> None:
    """All archives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs=2, default=(100, 500), help="of the two builds")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = [measure(name, *args.samples, args.rounds) for name in SOURCES]
    write_results("archive_costs", rows, {"samples": list(args.samples), "rounds": args.rounds})


if __name__ == "__main__":
    main()
