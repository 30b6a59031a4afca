"""Convert an archive into a shard set. After an interruption, the same command continues the build.

rspretrain build bigearthnet --source S2=… S1=… splits=… --out data/ben --workers 8
rspretrain build ucmerced --source ROOT --out data/ucmerced
rspretrain build bigearthnet --source … --out part1 --part 1/4     one node's share; `rspretrain merge` joins them

docs/archives.md describes the layout, sources and options of every archive, docs/shards.md the result.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rspretrain.cli.common import announce, command_parser, fail, typed
from rspretrain.cli.main import run
from rspretrain.output_paths import check_folder

if TYPE_CHECKING:
    from rspretrain.archives.base import Archive
    from rspretrain.shardset.building.assemble import BuildReport
    from rspretrain.shardset.building.build import Part

EXIT_STOPPED, EXIT_BAD_INPUT, EXIT_LEFT_OUT = 1, 2, 3
SHOWN_FAULTS = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Build. Exit code 0: all converted; 1: stopped early; 2: bad input; 3: patches left out."""
    args = parse(argv)
    from rspretrain.archives import open_archive

    try:
        check_folder(args.out, "--out")
        archive = open_archive(args.archive, args.source, args.option)
        report = build(archive, args)
    except ValueError as error:
        return fail("build", error)
    except (OSError, RuntimeError) as error:
        print(f"{typed('build')}: error: {error}\nThe same command continues the build.", file=sys.stderr)
        return EXIT_STOPPED
    show(report, args.part)
    return EXIT_LEFT_OUT if report.faults and not args.allow_skips else 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Prints a first line before the imports that the choices need, except for --help."""
    arguments = sys.argv[1:] if argv is None else argv
    if not {"-h", "--help"} & set(arguments):
        announce("Listing the archive …")
    from rspretrain.archives import ARCHIVES, usages
    from rspretrain.shardset.building.build import Part
    from rspretrain.shardset.codecs import CODECS
    from rspretrain.shardset.record import RAW

    parser = command_parser("build", __doc__)
    parser.epilog = f"archives, with their sources and the defaults of their options (… means no default):\n{usages()}"
    parser.add_argument("archive", help="its name, or an import path: " + ", ".join(ARCHIVES))
    parser.add_argument("--source", nargs="+", required=True, metavar="[NAME=]PATH", help="folders of the raw archive")
    parser.add_argument(
        "--option", nargs="+", default=[], metavar="NAME=VALUE", help="options of the archive, see below"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="a new or empty folder, or the folder of this build, to continue it"
    )
    parser.add_argument(
        "--samples-per-shard", type=int, default=1024, metavar="N", help="of every shard but the last (default 1024)"
    )
    parser.add_argument(
        "--order",
        choices=("shuffled", "archive"),
        default="shuffled",
        help="order of the samples in the set: by a hash of their keys (default), or as the archive lists them",
    )
    parser.add_argument(
        "--codec", choices=list(CODECS), default=RAW, help="compression of the arrays (default raw: none)"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes; the shards are the same for any number (default 1)"
    )
    parser.add_argument(
        "--part", type=part, default=Part(), metavar="i/n", help="build every n-th shard, from the i-th"
    )
    parser.add_argument("--allow-skips", action="store_true", help="exit with 0 even if patches were left out")
    return parser.parse_args(arguments)


def part(text: str) -> "Part":
    """Parse a part such as `2/4`."""
    from rspretrain.shardset.building.build import Part

    number, _, of = text.partition("/")
    try:
        return Part(int(number), int(of))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def build(archive: "Archive", args: argparse.Namespace) -> "BuildReport":
    """Build, with the samples done, the rate and the time left on a progress bar."""
    from rspretrain.observe.progress import Countdown
    from rspretrain.shardset.building.build import build_shards

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


def show(report: "BuildReport", part: "Part") -> None:
    """Print the totals, and the patches that were left out."""
    from rspretrain.shardset.building.assemble import REPORT_NAME

    for fault in report.faults[:SHOWN_FAULTS]:
        print(f"left out: {fault.name}: {fault.reason}")
    if len(report.faults) > SHOWN_FAULTS:
        print(f"… and {len(report.faults) - SHOWN_FAULTS} more in {report.out / REPORT_NAME}")
    print(
        f"{report.out}: {report.written} of {report.found} patches in {report.shards} shards, "
        f"{report.bytes / 1e6:.1f} MB; {len(report.faults)} left out, {len(report.excluded)} excluded by options"
    )
    if part.of > 1:
        print(f"This is part {part.number} of {part.of}: join all of them with `rspretrain merge PART … --out SET`")


if __name__ == "__main__":
    sys.exit(run("build"))
