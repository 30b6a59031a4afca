"""Bring shard sets of an older format version to the present one, in place: python shards/upgrade.py shards/ben …

Tars are read and checked, index.parquet and manifest.json made anew; if anything is damaged, nothing is changed.
Killed, it can be started again. Exit code 0: upgraded, or nothing to do; 2: not possible, with the reason.
"""

import sys

# The repository, not shards/, on the path: shards/inspect.py would hide the standard library's inspect.
sys.path[0] = __file__.rpartition("/shards/")[0]

import argparse
from pathlib import Path

from rspretrain.observe.progress import Countdown
from rspretrain.shardset.building.upgrade import upgrade
from rspretrain.shardset.manifest import VERSION


def main() -> int:
    """Parse, upgrade one set after the other, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, nargs="+")
    for folder in parser.parse_args().shards:
        try:
            with Countdown(f"upgrading {folder}", "samples") as progress:
                version = upgrade(folder, progress)
        except ValueError as error:
            print(f"shards/upgrade.py: {error}", file=sys.stderr)
            return 2
        done = "nothing to do" if version == VERSION else f"upgraded from version {version}"
        print(f"{folder}: version {VERSION}, {done}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
