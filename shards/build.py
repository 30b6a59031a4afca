"""Convert an archive into a shard set. Killed at any moment, the same command goes on where it was.

python shards/build.py bigearthnet --source S2=… S1=… splits=… --out shards/ben --workers 8
python shards/build.py ucmerced --source ROOT --out shards/ucm
python shards/build.py bigearthnet --source … --out part1 --part 1/4     one node's share; shards/merge.py joins them

Layouts, sources and options of every archive are explained in docs/archives.md, the result in docs/shards.md.
"""

import sys

# The repository, not shards/, on the path: shards/inspect.py would hide the standard library's inspect.
sys.path[0] = __file__.rpartition("/shards/")[0]

import argparse
from pathlib import Path

from rspretrain.archives import ARCHIVES, open_archive, usages
from rspretrain.archives.base import Archive
from rspretrain.observe.progress import Countdown
from rspretrain.shardset.building.assemble import REPORT_NAME, BuildReport
from rspretrain.shardset.building.build import Part, build_shards
from rspretrain.shardset.codecs import CODECS
from rspretrain.shardset.record import RAW

EXIT_STOPPED, EXIT_BAD_INPUT, EXIT_LEFT_OUT = 1, 2, 3
SHOWN_FAULTS = 20


def main() -> int:
    """Parse, build, report. Exit code 0: all converted; 1: stopped on the way; 2: bad input; 3: patches left out."""
    args = parse()
    try:
        archive = open_archive(args.archive, args.source, args.option)
        report = build(archive, args)
    except ValueError as error:
        print(f"shards/build.py: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except (OSError, RuntimeError) as error:
        print(f"shards/build.py: {error}\nThe same command goes on with what is finished.", file=sys.stderr)
        return EXIT_STOPPED
    tell(report, args.part)
    return EXIT_LEFT_OUT if report.faults and not args.allow_skips else 0


def parse() -> argparse.Namespace:
    """The command line."""
    epilog = f"archives, with their sources and the defaults of their options (… is none):\n{usages()}"
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog, formatter_class=style)
    parser.add_argument("archive", help="which archive it is: " + ", ".join(ARCHIVES))
    parser.add_argument(
        "--source", nargs="+", required=True, metavar="[NAME=]PATH", help="where the raw archive's folders are"
    )
    parser.add_argument("--option", nargs="+", default=[], metavar="NAME=VALUE", help="the archive's own choices")
    parser.add_argument(
        "--out", type=Path, required=True, help="a new or empty folder, or that of this very build, which goes on"
    )
    parser.add_argument(
        "--samples-per-shard", type=int, default=1024, metavar="N", help="of every tar but the last (default 1024)"
    )
    parser.add_argument(
        "--order",
        choices=("shuffled", "archive"),
        default="shuffled",
        help="how samples are dealt out to shards: by a hash of their keys (default), or as the archive lists them",
    )
    parser.add_argument("--codec", choices=list(CODECS), default=RAW, help="of the arrays (default raw)")
    parser.add_argument("--workers", type=int, default=1, help="processes; the bytes do not depend on it (default 1)")
    parser.add_argument(
        "--part", type=part, default=Part(), metavar="i/n", help="build every n-th shard, from the i-th"
    )
    parser.add_argument("--allow-skips", action="store_true", help="exit 0 although patches were left out")
    return parser.parse_args()


def part(text: str) -> Part:
    """`2/4` as a part."""
    number, _, of = text.partition("/")
    try:
        return Part(int(number), int(of))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def build(archive: Archive, args: argparse.Namespace) -> BuildReport:
    """Build with one progress bar (on a terminal): samples, rate, time left."""
    with Countdown(f"building {args.out}", "samples") as progress:
        return build_shards(
            archive,
            args.out,
            samples_per_shard=args.samples_per_shard,
            shuffle=args.order == "shuffled",
            codec=args.codec,
            workers=args.workers,
            part=args.part,
            progress=progress,
        )


def tell(report: BuildReport, part: Part) -> None:
    """What was written, and by name what was not."""
    for fault in report.faults[:SHOWN_FAULTS]:
        print(f"left out: {fault.name}: {fault.reason}")
    if len(report.faults) > SHOWN_FAULTS:
        print(f"… and {len(report.faults) - SHOWN_FAULTS} more in {report.out / REPORT_NAME}")
    print(
        f"{report.out}: {report.written} of {report.found} patches in {report.shards} shards, "
        f"{report.bytes / 1e6:.1f} MB; {len(report.faults)} left out, {len(report.excluded)} excluded by options"
    )
    if part.of > 1:
        print(f"This is part {part.number} of {part.of}: join all of them with shards/merge.py PART … --out SET")


if __name__ == "__main__":
    sys.exit(main())
