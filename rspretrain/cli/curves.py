"""Compare active-learning runs: one learning curve per query function, as the mean over runs with its band.

    rspretrain curves runs/al_* --png curve.png --csv curve.csv

Prints, per query function and metric: the mean over the rounds after a query (or with --at labels), and its difference
from `random` with the same seeds (the same split, first images and initial weights). Needs no GPU and no shard set.
Exit status: 0 done; 2 the folders cannot be compared.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rspretrain.cli.common import announce, check_files, command_parser, fail
from rspretrain.cli.main import run


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("curves", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run.dir of an active-learning run")
    parser.add_argument(
        "--at", type=int, metavar="LABELS", help="compare at this number of labels instead of over the rounds"
    )
    parser.add_argument("--png", type=Path, help="figure to write")
    parser.add_argument("--csv", type=Path, help="table to write")
    parser.add_argument("--title", default="Learning curves", help="title of the figure")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the runs, print their means, and write the figure and table."""
    arguments = parse(argv)
    announce(f"Reading {len(arguments.runs)} runs …")
    from rspretrain.active_learning.curves import RUNS_NOTE, compare, curves_csv, draw_curves, margins, means, read_run
    from rspretrain.evaluation.metrics import METRIC_TITLES
    from rspretrain.files import write_atomically

    try:
        check_files({"--png": arguments.png, "--csv": arguments.csv})
        runs = [read_run(folder) for folder in arguments.runs]
        curves = compare(runs)
        title = "mean over the rounds after a query" if arguments.at is None else f"with {arguments.at} labels"
        print(f"{title}, percent, with the 95 % interval of the mean over runs")
        for row in means(runs, arguments.at):
            interval = f" ± {100 * row['half_width']:.2f}" if row["num"] > 1 else ""
            mean = f"{100 * row['mean']:6.2f}{interval}"
            print(f"  {row['method']:<28}{METRIC_TITLES[row['metric']]:<13}{mean}   {row['num']} runs")
        for row in margins(runs, arguments.at):
            interval = f" ± {100 * row['half_width']:.2f}" if row["num"] > 1 else ""
            above = f"{100 * row['mean']:+6.2f}{interval}"
            print(f"  {row['method']:<28}{METRIC_TITLES[row['metric']]:<13}{above} above random, {row['num']} seeds")
        if arguments.png:
            draw_curves(curves, arguments.png, arguments.title, RUNS_NOTE)
        if arguments.csv:
            write_atomically(arguments.csv, curves_csv(curves).encode())
    except (ValueError, OSError) as error:
        return fail("curves", error)
    return 0


if __name__ == "__main__":
    sys.exit(run("curves"))
