"""Generate a demo archive in the layout of BigEarthNet-MM v1: rspretrain demo --out data/demo/archive"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rspretrain.cli.common import announce, command_parser, fail
from rspretrain.cli.main import run
from rspretrain.output_paths import check_folder


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("demo", __doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("data/demo/archive"), help="a new or empty folder (default data/demo/archive)"
    )
    parser.add_argument("--pairs", type=int, default=640, help="Sentinel-1/2 pairs (default 640)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes; the files are the same for any number")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the archive, and print its folder."""
    arguments = parse(argv)
    announce(f"Simulating {arguments.pairs} pairs in {arguments.out} …")
    from rspretrain.archives.demo import write_demo

    start = time.perf_counter()
    try:
        check_folder(arguments.out, "--out")
        write_demo(arguments.out, arguments.pairs, arguments.seed, arguments.workers)
    except ValueError as error:
        return fail("demo", error)
    print(f"{arguments.pairs} simulated pairs in {arguments.out}, {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(run("demo"))
