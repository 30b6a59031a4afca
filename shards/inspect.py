"""What is inside a shard set: numbers, one sample, pictures. Needs no torch.

python shards/inspect.py shards/ben                                    what is inside, and statistics of every band
python shards/inspect.py shards/ben --png sheet.png [--rows 6]         and a contact sheet
python shards/inspect.py shards/ben --statistics bands.png             and the histograms of all bands
python shards/inspect.py shards/ben --sample KEY [--png sample.png]    one sample: metadata, statistics, picture
"""

import sys

# First on the path is this folder, where this file would hide the standard library's `inspect`: the repository instead.
sys.path[0] = sys.path[0].rpartition("/")[0]

import argparse
from pathlib import Path

from rspretrain.shardset.charts import draw_statistics, statistics_lines
from rspretrain.shardset.index import CorruptSampleError, open_shards
from rspretrain.shardset.preview import describe, draw_sample, draw_sheet, row_of, summary

OVER = {"train": "the samples of split train", "all": "all samples"}


def main() -> int:
    """Parse, tell, draw. Exit code 0; 1: a sample is damaged; 2: bad input."""
    args = parse()
    try:
        shards = open_shards(args.shards)
        groups = list(shards.groups.values())
        if args.sample is not None:
            row = row_of(shards, args.sample)
            print(describe(shards, row))
            if args.png:
                draw_sample(shards, row, args.png)
        else:
            print(summary(shards))
            print("\n" + "\n".join(statistics_lines(groups, shards.manifest.statistics)))
            print(f"over {OVER[shards.manifest.statistics_over]}, every pixel at its own resolution")
            if args.statistics:
                draw_statistics(groups, shards.manifest.statistics, args.statistics, title=str(args.shards))
            if args.png:
                num = min(args.rows, len(shards))
                draw_sheet(shards, [i * len(shards) // num for i in range(num)], args.png)
    except (ValueError, OSError) as error:
        print(f"shards/inspect.py: {error}", file=sys.stderr)
        return 2
    except CorruptSampleError as error:
        print(f"shards/inspect.py: {error}", file=sys.stderr)
        return 1
    for picture in filter(None, (args.png, args.statistics)):
        print(f"picture: {picture}")
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="folder of a shard set")
    parser.add_argument("--sample", metavar="KEY", help="one sample by its key")
    parser.add_argument("--png", type=Path, help="write a picture here")
    parser.add_argument("--statistics", type=Path, metavar="PNG", help="draw the histograms of all bands here")
    parser.add_argument("--rows", type=int, default=4, help="samples on the contact sheet, evenly over the set")
    args = parser.parse_args()
    if args.rows < 1:
        parser.error(f"--rows {args.rows}: expected at least 1 sample")
    return args


if __name__ == "__main__":
    sys.exit(main())
