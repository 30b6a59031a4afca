"""Check every byte of a shard set against its checksums: python shards/verify.py shards/ben

Exit code 0: whole; 1: damaged, every fault named; 2: not a shard set.
"""

import sys

# The repository, not shards/, on the path: shards/inspect.py would hide the standard library's inspect.
sys.path[0] = __file__.rpartition("/shards/")[0]

import argparse
from pathlib import Path

from rspretrain.observe.progress import Countdown
from rspretrain.shardset.inspection.verify import verify
from rspretrain.shardset.manifest import read_content


def main() -> int:
    """Parse, verify, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--workers", type=int, default=2, help="threads (default 2)")
    args = parser.parse_args()
    try:
        content = read_content(args.shards)
    except ValueError as error:
        print(f"shards/verify.py: {error}", file=sys.stderr)
        return 2
    with Countdown(f"verifying {args.shards}", "samples") as progress:
        faults = verify(args.shards, args.workers, progress)
    for fault in faults:
        print(f"damaged: {fault.name}: {fault.reason}")
    size = sum(path.stat().st_size for path in args.shards.glob("*.tar"))
    verdict = f"{len(faults)} faults" if faults else "every byte as it was built"
    print(f"{args.shards}: {content.get('samples')} samples, {size / 1e6:.1f} MB: {verdict}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
