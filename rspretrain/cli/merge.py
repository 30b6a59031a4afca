"""Join the parts of a build: rspretrain merge part1 part2 … --out data/ben

The parts were made by `rspretrain build --part i/n`, on one node or several. The result has the bytes of a build on
one node. Shards are hard links where the file system allows it, checked copies elsewhere; the parts are not changed.
Exit code 0: joined; 2: parts are missing or do not belong together; 3: joined, but patches were left out.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rspretrain.cli.common import announce, command_parser, fail
from rspretrain.cli.main import run
from rspretrain.output_paths import check_folder


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("merge", __doc__)
    parser.add_argument("parts", type=Path, nargs="+", metavar="PART", help="folders of all parts")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or one of the parts")
    parser.add_argument("--allow-skips", action="store_true", help="exit with 0 even if patches were left out")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Merge, and print the totals."""
    args = parse(argv)
    announce(f"Joining {len(args.parts)} parts into {args.out} …")
    from rspretrain.observe.progress import Countdown
    from rspretrain.shardset.building.merge import merge_parts

    try:
        check_folder(args.out, "--out")
        with Countdown(f"joining {args.out}", "shards") as progress:
            report = merge_parts(args.parts, args.out, progress)
    except ValueError as error:
        return fail("merge", error)
    print(
        f"{args.out}: {report.written} of {report.found} patches in {report.shards} shards, "
        f"{report.bytes / 1e6:.1f} MB; {len(report.faults)} left out, {len(report.excluded)} excluded by options"
    )
    return 3 if report.faults and not args.allow_skips else 0


if __name__ == "__main__":
    sys.exit(run("merge"))
