"""Check every byte of a shard set against its checksums: python shards/verify.py shards/ben

Exit code 0: whole; 1: damaged, every fault named; 2: not a shard set.
"""

import sys

# The repository, not shards/, on the path: shards/inspect.py would hide the standard library's inspect.
sys.path[0] = __file__.rpartition("/shards/")[0]

import argparse
from pathlib import Path

from tqdm import tqdm

from rspretrain.shardset.index import open_shards
from rspretrain.shardset.verify import verify


def main() -> int:
    """Parse, verify, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    path = parser.parse_args().shards
    try:
        shards = open_shards(path)
    except ValueError as error:
        print(f"shards/verify.py: {error}", file=sys.stderr)
        return 2
    with tqdm(desc=f"verifying {path}", total=len(shards), unit=" samples", disable=None) as bar:
        faults = verify(shards, bar.update)
    for fault in faults:
        print(f"damaged: {fault.name}: {fault.reason}")
    total = sum(entry.bytes for entry in shards.manifest.shards)
    verdict = f"{len(faults)} faults" if faults else "every byte as it was built"
    print(f"{path}: {len(shards)} samples, {len(shards.manifest.shards)} shards, {total / 1e6:.1f} MB: {verdict}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
