"""Check every byte of a shard set against its checksums: rspretrain verify data/ben

Exit code 0: intact; 1: damaged, with every fault on a line; 2: not a shard set.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rspretrain.cli.common import announce, command_parser, fail
from rspretrain.cli.main import run


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("verify", __doc__)
    parser.add_argument("shards", type=Path, help="folder of a shard set")
    parser.add_argument("--workers", type=int, default=2, help="threads (default 2)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Verify, and print every fault."""
    args = parse(argv)
    announce(f"Verifying {args.shards} …")
    from rspretrain.observe.progress import Countdown
    from rspretrain.shardset.inspection.verify import verify
    from rspretrain.shardset.manifest import read_content

    try:
        content = read_content(args.shards)
    except ValueError as error:
        return fail("verify", error)
    with Countdown(f"verifying {args.shards}", "samples") as progress:
        faults = verify(args.shards, args.workers, progress)
    for fault in faults:
        print(f"damaged: {fault.name}: {fault.reason}")
    size = sum(path.stat().st_size for path in args.shards.glob("*.tar"))
    verdict = f"{len(faults)} faults" if faults else "all bytes match their checksums"
    print(f"{args.shards}: {content.get('samples')} samples, {size / 1e6:.1f} MB: {verdict}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(run("verify"))
