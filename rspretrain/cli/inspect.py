"""Show the contents of a shard set: statistics, single samples, pictures. Does not need torch.

rspretrain inspect data/ben                                   contents, and statistics of every band
rspretrain inspect data/ben --png sheet.png [--rows 6]         and a contact sheet
rspretrain inspect data/ben --statistics bands.png             and the histograms of all bands
rspretrain inspect data/ben --sample KEY [--png sample.png]    one sample: metadata, statistics, picture
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rspretrain.cli.common import announce, check_files, command_parser, fail, typed
from rspretrain.cli.main import run

if TYPE_CHECKING:
    from rspretrain.shardset.index import ShardSet

OVER = {"train": "the samples of split train", "all": "all samples"}


def main(argv: Sequence[str] | None = None) -> int:
    """Print, and draw if asked. Exit code 0; 1: a sample is damaged; 2: bad input."""
    args = parse(argv)
    announce(f"Opening {args.shards} …")
    from rspretrain.shardset.index import CorruptSampleError, open_shards

    try:
        check_files({"--png": args.png, "--statistics": args.statistics})
        shards = open_shards(args.shards)
        text = one_sample(shards, args) if args.sample is not None else whole_set(shards, args)
    except (ValueError, OSError) as error:
        return fail("inspect", error)
    except CorruptSampleError as error:
        print(f"{typed('inspect')}: error: {error}", file=sys.stderr)
        return 1
    pictures = [f"picture: {picture}" for picture in (args.png, args.statistics) if picture]
    show("\n".join([text, *pictures]))
    return 0


def one_sample(shards: "ShardSet", args: argparse.Namespace) -> str:
    """The description of one sample; draws its picture if --png is given."""
    from rspretrain.shardset.inspection.preview import describe, draw_sample, row_of

    row = row_of(shards, args.sample)
    if args.png:
        draw_sample(shards, row, args.png)
    return describe(shards, row)


def whole_set(shards: "ShardSet", args: argparse.Namespace) -> str:
    """The description of the whole set; draws the pictures that are asked for."""
    from rspretrain.shardset.inspection.charts import draw_statistics, statistics_lines
    from rspretrain.shardset.inspection.preview import draw_sheet, summary

    groups, statistics = list(shards.groups.values()), shards.manifest.statistics
    if args.statistics:
        draw_statistics(groups, statistics, args.statistics, title=str(args.shards))
    if args.png:
        num = min(args.rows, len(shards))
        draw_sheet(shards, [i * len(shards) // num for i in range(num)], args.png)
    over = f"over {OVER[shards.manifest.statistics_over]}, every pixel at its own resolution"
    return "\n".join([summary(shards), "", *statistics_lines(groups, statistics), over])


def show(text: str) -> None:
    """Print. A pipe that is closed early (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("inspect", __doc__)
    parser.add_argument("shards", help="folder or URL of a shard set")
    parser.add_argument("--sample", metavar="KEY", help="one sample by its key")
    parser.add_argument("--png", type=Path, help="write a picture of the sample, or of --rows samples")
    parser.add_argument("--statistics", type=Path, metavar="PNG", help="write a picture of the histograms of all bands")
    parser.add_argument("--rows", type=int, default=4, help="samples on the contact sheet, evenly spread over the set")
    args = parser.parse_args(argv)
    if args.rows < 1:
        parser.error(f"--rows {args.rows}: expected at least 1 sample")
    if args.sample is not None and args.statistics:
        parser.error(f"--statistics {args.statistics} draws the whole set, expected no --sample. Remove one of the two")
    for name in ("png", "statistics"):
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            parser.error(f"--{name} {path}: {path.parent} is not an existing folder. Create it first")
    return args


if __name__ == "__main__":
    sys.exit(run("inspect"))
