"""Join the parts of a build: python shards/merge.py part1 part2 … --out shards/ben

The parts were made by shards/build.py --part i/n, on one node or several. The result has the same bytes as the build of
one node. Shards are hard links where the file system allows it, checked copies elsewhere; the parts stay as they are.
Exit code 0: joined; 2: parts are missing or do not belong together; 3: joined, but patches were left out.
"""

import sys

# The repository, not shards/, on the path: shards/inspect.py would hide the standard library's inspect.
sys.path[0] = __file__.rpartition("/shards/")[0]

import argparse
from pathlib import Path

from rspretrain.observe.progress import Countdown
from rspretrain.shardset.building.merge import merge_parts


def main() -> int:
    """Parse, merge, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", type=Path, nargs="+", metavar="PART")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or one of the parts")
    parser.add_argument("--allow-skips", action="store_true", help="exit 0 although patches were left out")
    args = parser.parse_args()
    try:
        with Countdown(f"joining {args.out}", "shards") as progress:
            report = merge_parts(args.parts, args.out, progress)
    except ValueError as error:
        print(f"shards/merge.py: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.out}: {report.written} of {report.found} patches in {report.shards} shards, "
        f"{report.bytes / 1e6:.1f} MB; {len(report.faults)} left out, {len(report.excluded)} excluded by options"
    )
    return 3 if report.faults and not args.allow_skips else 0


if __name__ == "__main__":
    sys.exit(main())
