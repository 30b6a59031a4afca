"""List the configurations that come with rspretrain, or copy one to edit it.

    rspretrain configs                                       all of them, by kind
    rspretrain configs copy dual_simclr_bigearthnet          into the current folder
    rspretrain configs copy zero2 my_zero.json               under another name

`--config NAME` finds a shipped configuration by its name. A copy never overwrites a file.
Exit status: 0 done, 2 unknown name or existing file.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rspretrain.cli.common import command_parser, fail
from rspretrain.cli.main import run
from rspretrain.output_paths import check_file
from rspretrain.shipped_configs import KINDS, copy_config, deepspeed_files, shipped, summary


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("configs", __doc__)
    actions = parser.add_subparsers(dest="action", metavar="copy")
    copy = actions.add_parser("copy", help="write a shipped configuration to a new file")
    copy.add_argument("name", metavar="NAME", help="a name that `rspretrain configs` lists")
    copy.add_argument("destination", metavar="DEST", type=Path, nargs="?", help="file or folder (default: this folder)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """List the configurations, or copy one."""
    arguments = parse(argv)
    if arguments.action is None:
        print(listing())
        return 0
    try:
        if arguments.destination is not None and not arguments.destination.is_dir():
            check_file(arguments.destination, "DEST")
        print(copy_config(arguments.name, arguments.destination))
    except (ValueError, OSError) as error:
        return fail("configs", error)
    return 0


def listing() -> str:
    """All shipped configurations with names and summaries, below the command that runs them."""
    lines = []
    for kind, command in KINDS.items():
        found = shipped(kind)
        width = max(map(len, found)) + 2
        lines.append(f"rspretrain {command} --config NAME")
        lines += [f"  {name:<{width}}{summary(path)}" for name, path in found.items()]
        lines.append("")
    return "\n".join([*lines, "strategy.deepspeed=NAME", f"  {', '.join(deepspeed_files())}"])


if __name__ == "__main__":
    sys.exit(run("configs"))
