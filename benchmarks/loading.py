"""Loading speed: our loader compared with the usual alternatives, on the same pixels, in one run.

python benchmarks/loading.py [--archives bigearthnet-mm sen12ms scenes] [--pairs 2000] [--rounds 5] [--only TEXT …]

The benchmark generates three archives (loading_archives.py) in a temporary folder (TMPDIR): 2,000 pairs of
BigEarthNet-MM and, in proportion, 512 patches of SEN12MS and 2,100 images of UC-Merced. All competitors
(loading_competitors.py) deliver shuffled batches of 64 with all bands as torch tensors, one per group, from files in
the page cache. The rows `cold` read files that are not in it, as mincore confirms.

First, each competitor's epoch is compared with the source files as rasterio reads them, by a checksum per sample.
Rounds alternate between competitors, so that other jobs on the machine affect all of them. A round is the number of
epochs that takes half a second, or one epoch for cold rows. Values are medians; ratios are taken within a round. The
first round is a warm-up. Missing packages are reported and skipped. docs/loading.md describes the setup of each
competitor and the limits of the comparison.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import rasterio
from loading_archives import KINDS
from loading_bench import Bench, set_up
from loading_bounds import Bound
from loading_competitors import BATCH, Competitor
from results import FOLDER, write_results

MIN_ROUND_S = 0.5
MIN_SAMPLES = 4 * BATCH  # per archive
RATIOS = {"times_webdataset": "webdataset", "times_rasterio": "rasterio", "times_memcpy": "one memcpy"}


def measure(competitors: dict[str, Competitor | Bound], rounds: int) -> dict[str, list[float]]:
    """Samples per second of each competitor per round."""
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
                epochs[name] = math.ceil(MIN_ROUND_S / seconds)
    return rates


def ratio(rates: list[float], others: list[float]) -> str:
    """The median of the ratios within each round, to three digits."""
    return f"{statistics.median(one / other for one, other in zip(rates, others, strict=True)):.3g}"


def table(archive: str, bench: Bench, competitors: dict[str, Competitor | Bound], rounds: int) -> list[dict]:
    """The archive's rows. A ratio is empty if its denominator was not measured."""
    rates, rows = measure(competitors, rounds), []
    for name, values in rates.items():
        middle = statistics.median(values)
        row = {"archive": archive, "loader": name, "samples_per_s": round(middle)}
        row |= {"slowest": round(min(values)), "fastest": round(max(values))}
        row["mb_per_s"] = round(middle * bench.sample_bytes / 1e6)
        row |= {column: ratio(values, rates[other]) if other in rates else "" for column, other in RATIOS.items()}
        rows.append({**row, "settings": competitors[name].settings})
    return rows


def show(rows: list[dict]) -> None:
    """Print aligned columns without the settings, which are in the CSV."""
    names = [name for name in rows[0] if name not in ("archive", "settings")]
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print()
    for first, *others in cells:
        print("  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--pairs", type=int, default=2000, help="pairs of BigEarthNet-MM; others in proportion")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT", help="competitors whose names contain a text")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the results")
    args = parser.parse_args()
    os.environ.setdefault("GDAL_DISABLE_READDIR_ON_OPEN", "EMPTY_DIR")  # the usual advice for rasterio
    # UC-Merced has no georeference; mosaicml-streaming returns read-only arrays.
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    rows: list[dict] = []
    settings: dict = {"rounds": args.rounds, "batch": BATCH, "gdal": rasterio.__gdal_version__}
    for name in args.archives:
        samples = max(MIN_SAMPLES, round(args.pairs * KINDS[name].share))
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), name, samples)
            settings[name] = {"samples": samples, "sample_bytes": bench.sample_bytes}
            print(f"\n{name}: {samples} samples of {bench.sample_bytes:,} bytes", flush=True)
            found = table(name, bench, set_up(bench, args.only), args.rounds)
        if found:
            show(found)
        rows += found
    write_results("loading", rows, settings, args.out)


if __name__ == "__main__":
    main()
