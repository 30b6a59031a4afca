"""How fast samples become batches: our loader against what the field uses, on the same pixels, in one run.

python benchmarks/loading.py [--archives bigearthnet-mm sen12ms scenes] [--pairs 2000] [--rounds 5] [--only TEXT …]

Three generated archives in their own layouts (loading_archives.py), written into a temporary folder (TMPDIR): 2,000
pairs of BigEarthNet-MM, and in proportion 512 patches of SEN12MS and 2,100 pictures of UC-Merced. All competitors
(loading_rivals.py) deliver shuffled batches of 64 with every band of every sample as torch tensors, one a group, from
files in the page cache; the rows that say `cold` read files that were dropped from it, which mincore confirms.

Before anything is timed, each competitor's epoch is compared with the source files as rasterio reads them, by a
checksum of the pixels of each sample. Rounds alternate between competitors, so that a noisy neighbour hits all of them;
a round is as many epochs as take half a second, one for cold rows. The first round warms up and does not count. What is
not installed is left out by name. docs/loading.md says how each one is set up, and what the figures do not say.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import xxhash
from loading_archives import KINDS, WORKERS
from loading_rivals import (
    BATCH,
    SHARD_BYTES,
    USUAL,
    Batches,
    Competitor,
    SourceFiles,
    first_touch,
    litdata,
    lmdb_safetensors,
    mosaicml_streaming,
    ours,
    over_the_index,
    plain_rasterio,
    stock_webdataset,
)
from loading_roofs import Roof, StaysWarmError, drop, memcpy, sequential_read
from results import FOLDER, write_results
from torch.utils.data import DataLoader

from rspretrain.archives.base import Archive
from rspretrain.sensors import Group
from rspretrain.shardset.build import build_shards
from rspretrain.shardset.index import ShardSet, open_shards

LEAST_S = 0.5  # a round lasts at least so long
LEAST_SAMPLES = 4 * BATCH  # of an archive
RATIOS = {"times_webdataset": "webdataset", "times_rasterio": "rasterio", "times_memcpy": "one memcpy"}


class Bench:
    """One archive: its source files, and shard sets that are built when somebody asks for them."""

    def __init__(self, root: Path, name: str, samples: int) -> None:
        self.root = root
        KINDS[name].write(root / "archive", samples)
        self.archive: Archive = KINDS[name].open(root / "archive")
        self.groups: list[Group] = list(self.archive.groups)
        self.source = SourceFiles(KINDS[name], self.archive)
        size = sum(array.numpy().nbytes for array in self.source[0].values())
        num_shards = WORKERS * math.ceil(size * samples / SHARD_BYTES / WORKERS)  # an equal number for each worker
        self.samples_per_shard = math.ceil(samples / num_shards)
        self.bytes = size

    def shards(self, folder: str, codec: str = "raw") -> ShardSet:
        path = self.root / folder
        build_shards(
            self.archive, path, samples_per_shard=self.samples_per_shard, codec=codec, workers=WORKERS
        )  # nothing where it is there
        return open_shards(path)

    def cold(self) -> tuple[ShardSet, Callable[[], None]]:
        """A set of its own, because files that somebody maps stay in the page cache, and what drops it from there."""
        shards = self.shards("cold")
        prepare = partial(drop, [Path(path) for path in shards.urls()])
        prepare()
        return shards, prepare

    def competitors(self) -> dict[str, Callable[[], Competitor | Roof]]:
        """By name, in the order of the table."""
        return {
            "rspretrain": lambda: ours(self.shards("raw")),
            "rspretrain, first touch": lambda: first_touch(self.shards("raw")),
            "rspretrain, bitshuffle-lz4": lambda: ours(self.shards("lz4", "bitshuffle-lz4")),
            "rspretrain, zstd": lambda: ours(self.shards("zstd", "zstd")),
            "DataLoader over the index": lambda: over_the_index(self.shards("raw")),
            "webdataset": lambda: stock_webdataset(self.shards("raw")),
            "LMDB + safetensors": lambda: lmdb_safetensors(self.shards("raw"), self.root / "lmdb"),
            "litdata": lambda: litdata(self.shards("raw"), self.root / "litdata"),
            "mosaicml-streaming": lambda: mosaicml_streaming(self.shards("raw"), self.root / "mds"),
            "rasterio": lambda: plain_rasterio(self.source),
            "one memcpy": lambda: memcpy(self.shards("raw")),
            "rspretrain, cold": lambda: first_touch(*self.cold()),
            "webdataset, cold": lambda: stock_webdataset(*self.cold()),
            "sequential read, cold": lambda: sequential_read(*self.cold()),
        }

    def digests(self, batches: Batches) -> Iterator[int]:
        """A checksum of each sample: all pixels of all bands, in the order of the archive's groups."""
        for batch in batches:
            arrays = [batch[group.name].numpy() for group in self.groups]
            for array, group in zip(arrays, self.groups, strict=True):
                assert (array.dtype.name, array.shape[1:]) == (group.dtype, (len(group.bands), *group.shape))
            for sample in range(len(arrays[0])):
                digest = xxhash.xxh3_128()
                for array in arrays:
                    digest.update(np.ascontiguousarray(array[sample]))
                yield digest.intdigest()

    def of_source(self) -> frozenset[int]:
        """The checksums of all samples, as rasterio reads them."""
        return frozenset(self.digests(DataLoader(self.source, BATCH, **USUAL)))


def check(name: str, found: list[int], expected: frozenset[int], samples: int) -> None:
    """RuntimeError where a competitor delivers other pixels, a sample twice, or fewer than its epoch has.

    An epoch may be without the batch that is not full.
    """
    foreign = sum(digest not in expected for digest in found)
    least = samples // BATCH * BATCH
    if foreign or len(set(found)) < len(found) or len(found) < least:
        raise RuntimeError(
            f"{name} delivered {len(found)} samples in an epoch, {len(set(found))} different ones, {foreign} with "
            f"other pixels than the source; expected {least} to {samples} of the source, each once. Its figures would "
            "mean nothing: correct it, or leave it out with --only."
        )


def set_up(bench: Bench, only: list[str]) -> dict[str, Competitor | Roof]:
    """All competitors that can be had here, each checked against the source."""
    expected, ready = bench.of_source(), {}
    for name, make in bench.competitors().items():
        if only and not any(text in name for text in only):
            continue
        try:
            competitor = make()
        except ImportError as reason:
            print(f"{name} is left out: {reason}. `make bench` installs it (requirements/bench.txt).", flush=True)
            continue
        except StaysWarmError as reason:
            print(f"{name} is left out: {reason}", flush=True)
            continue
        if isinstance(competitor, Competitor):
            found = list(bench.digests(competitor.batches(1)))
            check(name, found, expected, competitor.samples or len(expected))
            print(f"{name}: {len(found)} samples are those of the source", flush=True)
        ready[name] = competitor
    return ready


def measure(competitors: dict[str, Competitor | Roof], rounds: int) -> dict[str, list[float]]:
    """Samples per second of every competitor in every round."""
    rates: dict[str, list[float]] = {name: [] for name in competitors}
    epochs = dict.fromkeys(competitors, 1)
    for number in range(rounds + 1):
        for name, competitor in competitors.items():
            if competitor.prepare:
                competitor.prepare()
            started = time.perf_counter()
            samples = competitor.run(epochs[name])
            seconds = time.perf_counter() - started
            if number:
                rates[name].append(samples / seconds)
            elif not competitor.prepare:
                epochs[name] = math.ceil(LEAST_S / seconds)
    return rates


def table(archive: str, bench: Bench, competitors: dict[str, Competitor | Roof], rounds: int) -> list[dict]:
    """The archive's rows. A ratio is empty where its denominator was left out."""
    rates = measure(competitors, rounds)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    rows = []
    for name, values in rates.items():
        row = {"archive": archive, "loader": name, "samples_per_s": round(middle[name])}
        row |= {"slowest": round(min(values)), "fastest": round(max(values))}
        row["mb_per_s"] = round(middle[name] * bench.bytes / 1e6)
        row |= {ratio: f"{middle[name] / middle[of]:.3g}" if of in middle else "" for ratio, of in RATIOS.items()}
        rows.append({**row, "settings": competitors[name].settings})
    return rows


def show(rows: list[dict]) -> None:
    """Aligned columns; the settings stand in the CSV."""
    names = [name for name in rows[0] if name not in ("archive", "settings")]
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print()
    for first, *others in cells:
        print("  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--pairs", type=int, default=2000, help="of BigEarthNet-MM; the others in proportion")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="competitors whose names hold a text")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    args = parser.parse_args()
    os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")  # the usual advice for rasterio
    # Pictures lie nowhere on Earth; what mosaicml-streaming reads is not to be written to.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    rows: list[dict] = []
    settings: dict = {"rounds": args.rounds, "batch": BATCH, "gdal": rasterio.__gdal_version__}
    for name in args.archives:
        samples = max(LEAST_SAMPLES, round(args.pairs * KINDS[name].share))
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), name, samples)
            settings[name] = {"samples": samples, "bytes": bench.bytes}
            print(f"\n{name}: {samples} samples of {bench.bytes:,} bytes", flush=True)
            rows += table(name, bench, set_up(bench, args.only), args.rounds)
        show([row for row in rows if row["archive"] == name])
    write_results("loading", rows, settings, args.out)


if __name__ == "__main__":
    main()
