"""Generates a demo archive in the exact layout of BigEarthNet-MM v1: python shards/demo.py --out demo/archive"""

import sys

# The repository, not shards/, on the path: shards/inspect.py would hide the standard library's inspect.
sys.path[0] = __file__.rpartition("/shards/")[0]

import argparse
import time
from pathlib import Path

from rspretrain.archives.demo import write_demo


def main() -> None:
    """Parses the command line, writes the archive, says where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--pairs", type=int, default=640, help="Sentinel-1/2 pairs (default 640)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes; the bytes are the same for any number")
    arguments = parser.parse_args()
    start = time.perf_counter()
    try:
        write_demo(arguments.out, arguments.pairs, arguments.seed, arguments.workers)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.pairs} simulated pairs in {arguments.out}, {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
