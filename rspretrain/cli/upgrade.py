"""Upgrade shard sets of an older format version to the current one, in place: rspretrain upgrade data/ben …

Reads and checks the tars, and creates index.parquet and manifest.json again. A damaged set is not changed. After an
interruption, run the command again. Exit code 0: upgraded, or nothing to do; 2: not possible, with the reason.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rspretrain.cli.common import announce, command_parser, fail
from rspretrain.cli.main import run


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("upgrade", __doc__)
    parser.add_argument("shards", type=Path, nargs="+", help="folders of shard sets")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Upgrade one set after the other."""
    args = parse(argv)
    announce(f"Upgrading {', '.join(map(str, args.shards))} …")
    from rspretrain.observe.progress import Countdown
    from rspretrain.shardset.building.upgrade import upgrade
    from rspretrain.shardset.manifest import VERSION

    for folder in args.shards:
        try:
            with Countdown(f"upgrading {folder}", "samples") as progress:
                version = upgrade(folder, progress)
        except ValueError as error:
            return fail("upgrade", error)
        done = "nothing to do" if version == VERSION else f"upgraded from version {version}"
        print(f"{folder}: version {VERSION}, {done}")
    return 0


if __name__ == "__main__":
    sys.exit(run("upgrade"))
