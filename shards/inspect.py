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
import os
from pathlib import Path

from rspretrain.shardset.index import CorruptSampleError, ShardSet, open_shards
from rspretrain.shardset.inspection.charts import draw_statistics, statistics_lines
from rspretrain.shardset.inspection.preview import describe, draw_sample, draw_sheet, row_of, summary

OVER = {"train": "the samples of split train", "all": "all samples"}


def main() -> int:
    """Parse, draw, tell. Exit code 0; 1: a sample is damaged; 2: bad input."""
    args = parse()
    try:
        shards = open_shards(args.shards)
        text = one_sample(shards, args) if args.sample is not None else whole_set(shards, args)
    except (ValueError, OSError) as error:
        print(f"shards/inspect.py: {error}", file=sys.stderr)
        return 2
    except CorruptSampleError as error:
        print(f"shards/inspect.py: {error}", file=sys.stderr)
        return 1
    pictures = [f"picture: {picture}" for picture in (args.png, args.statistics) if picture]
    tell("\n".join([text, *pictures]))
    return 0


def one_sample(shards: ShardSet, args: argparse.Namespace) -> str:
    """The text about one sample; draws its picture where that is asked for."""
    row = row_of(shards, args.sample)
    if args.png:
        draw_sample(shards, row, args.png)
    return describe(shards, row)


def whole_set(shards: ShardSet, args: argparse.Namespace) -> str:
    """The text about the whole set; draws what is asked for."""
    groups, statistics = list(shards.groups.values()), shards.manifest.statistics
    if args.statistics:
        draw_statistics(groups, statistics, args.statistics, title=str(args.shards))
    if args.png:
        num = min(args.rows, len(shards))
        draw_sheet(shards, [i * len(shards) // num for i in range(num)], args.png)
    over = f"over {OVER[shards.manifest.statistics_over]}, every pixel at its own resolution"
    return "\n".join([summary(shards), "", *statistics_lines(groups, statistics), over])


def tell(text: str) -> None:
    """Print; whoever reads only the beginning (`| head`) has had enough, and that is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="folder or URL of a shard set")
    parser.add_argument("--sample", metavar="KEY", help="one sample by its key")
    parser.add_argument("--png", type=Path, help="write a picture here: of the sample, or of --rows samples")
    parser.add_argument("--statistics", type=Path, metavar="PNG", help="draw the histograms of all bands here")
    parser.add_argument("--rows", type=int, default=4, help="samples on the contact sheet, evenly over the set")
    args = parser.parse_args()
    if args.rows < 1:
        parser.error(f"--rows {args.rows}: expected at least 1 sample")
    if args.sample is not None and args.statistics:
        parser.error(
            f"--statistics {args.statistics} is about the whole set, expected no --sample. Drop one of the two"
        )
    for name in ("png", "statistics"):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            parser.error(f"--{name} {path}: {path.parent} is no folder, expected one. Make it first")
    return args


if __name__ == "__main__":
    sys.exit(main())
