"""Convert an archive into a shard set.

python shards/build.py bigearthnet --source S2=… S1=… splits=… --out shards/ben
python shards/build.py ucmerced|aid|folder --source ROOT --out shards/ucm
"""

import sys

# The repository, not shards/, on the path: shards/inspect.py would hide the standard library's inspect.
sys.path[0] = __file__.rpartition("/shards/")[0]

import argparse
from pathlib import Path

from tqdm import tqdm

from rspretrain.archives import ARCHIVES, open_archive
from rspretrain.archives.base import Archive
from rspretrain.shardset.build import REPORT_NAME, BuildReport, build_shards

EXIT_BAD_INPUT, EXIT_LEFT_OUT = 2, 3
SHOWN_FAULTS = 20


def main() -> int:
    """Parse, build, report. Exit code 0: all converted; 2: bad input; 3: patches were left out."""
    args = parse()
    try:
        archive = open_archive(args.archive, args.source, args.option)
        report = build(archive, args)
    except ValueError as error:
        print(f"shards/build.py: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    tell(report)
    return EXIT_LEFT_OUT if report.faults and not args.allow_skips else 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", help=", ".join(ARCHIVES))
    parser.add_argument("--source", nargs="+", required=True, metavar="[NAME=]PATH", help="the raw archive's folders")
    parser.add_argument("--option", nargs="+", default=[], metavar="NAME=VALUE", help="the archive's own choices")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the shard set")
    parser.add_argument("--samples-per-shard", type=int, default=1024)
    parser.add_argument("--order", choices=("shuffled", "archive"), default="shuffled", help="of samples over shards")
    parser.add_argument("--workers", type=int, default=1, help="processes; the bytes do not depend on it")
    parser.add_argument("--allow-skips", action="store_true", help="exit 0 although patches were left out")
    return parser.parse_args()


def build(archive: Archive, args: argparse.Namespace) -> BuildReport:
    """Build with a progress bar (on a terminal)."""
    with tqdm(desc=f"building {args.out}", unit=" samples", disable=None) as bar:
        return build_shards(
            archive,
            args.out,
            samples_per_shard=args.samples_per_shard,
            shuffle=args.order == "shuffled",
            workers=args.workers,
            progress=bar.update,
        )


def tell(report: BuildReport) -> None:
    """What was written, and by name what was not."""
    for fault in report.faults[:SHOWN_FAULTS]:
        print(f"left out: {fault.name}: {fault.reason}")
    if len(report.faults) > SHOWN_FAULTS:
        print(f"… and {len(report.faults) - SHOWN_FAULTS} more in {report.out / REPORT_NAME}")
    print(
        f"{report.out}: {report.written} of {report.found} patches in {report.shards} shards, "
        f"{report.bytes / 1e6:.1f} MB; {len(report.faults)} left out"
    )


if __name__ == "__main__":
    sys.exit(main())
