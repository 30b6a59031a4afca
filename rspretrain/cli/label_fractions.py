"""Fine-tune with several methods, label fractions and seeds; write a table and a plot.

    rspretrain label-fractions --config linear --fractions 0.01 0.1 1 --seeds 3 --methods pretrained scratch \\
        data.shards=data/ucmerced backbone.rgb=runs/a/export/rgb run.dir=runs/fractions
    deepspeed --module rspretrain.cli.label_fractions --config … --methods pretrained 'early: network.fusion=early'

A method is `pretrained` (the configuration unchanged), a tuning mode, or a name with overrides. Every cell is a run in
run.dir/<method>/<fraction>/<seed>. The same command, under any launcher, runs the missing cells. The images of a
smaller fraction are among those of a larger one with the same seed. Writes fractions.csv, fractions.json and
fractions.png into run.dir.

Exit status: 0 done, or stopped by a signal; 2 invalid configuration or input; 1 a run failed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rspretrain.cli.common import announce, config_parser
from rspretrain.cli.main import run
from rspretrain.shipped_configs import find_config

if TYPE_CHECKING:
    from rspretrain.engine.fractions import Cell

NAME = "label-fractions"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the missing cells, and print the results."""
    arguments = parse(argv)
    announce("Loading PyTorch and the configuration …")
    from safetensors import SafetensorError

    from rspretrain import config
    from rspretrain import world as distributed
    from rspretrain.cli.training import refuse, share_cores
    from rspretrain.engine.fractions import check_cells, parse_method, plan, run_cells
    from rspretrain.engine.run_dir import check_run_dir

    world = distributed.start()
    share_cores(world)
    try:
        path = find_config(arguments.config, "finetune")
        methods = [parse_method(text) for text in arguments.methods]
        cells = plan(path, arguments.overrides, methods, arguments.fractions, arguments.seeds)
        folder = config.load_finetune(path, arguments.overrides).run.dir
        if arguments.dry_run:
            if world.is_first:
                print("\n".join(str(cell.settings.run.dir) for cell in cells))
            return 0
        check_run_dir(folder, resume=True)
        deepspeed_launcher = arguments.local_rank is not None
        check_cells(cells, world, deepspeed_launcher)
    except (ValueError, OSError, SafetensorError) as error:
        return refuse(NAME, error, world)
    try:
        complete = run_cells(cells, world, deepspeed_launcher, lambda line: print(line, flush=True))
    except config.ConfigError as error:  # about a cell's folder; any other error is a failure with a traceback
        return refuse(NAME, error, world)
    distributed.stop()
    if world.is_first:
        report(cells, folder, complete)
    return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Overrides may follow the methods; they have an `=` before any colon."""
    parser = config_parser(NAME, __doc__)
    parser.add_argument(
        "--fractions", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.5, 1.0], help="fractions of the labels"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of every method and fraction")
    parser.add_argument("--methods", nargs="+", default=["pretrained", "scratch"], help="methods to compare, see above")
    arguments = parser.parse_intermixed_args(argv)
    is_override = {text: "=" in text.partition(":")[0] for text in arguments.methods}
    arguments.overrides += [text for text in arguments.methods if is_override[text]]
    arguments.methods = [text for text in arguments.methods if not is_override[text]]
    return arguments


def report(cells: "list[Cell]", folder: Path, complete: bool) -> None:
    """Print the results, and the paths of table and plot."""
    from rspretrain.engine.fractions import collect, write_report

    found = collect(cells)
    if not complete:
        print(f"Stopped by a signal with {len(found)} of {len(cells)} runs finished; the same command continues.")
    if found:
        print(f"\n{write_report(cells, found, folder)}\n")
        print(f"numbers      {folder}/fractions.csv, {folder}/fractions.json")
        print(f"plot         {folder}/fractions.png")


if __name__ == "__main__":
    sys.exit(run(NAME))
