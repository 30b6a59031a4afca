"""How many labels does it take? Fine-tunes with every method, share of the labels and seed; a table and a plot.

    python launchers/label_fractions.py --config configs/finetune/linear.yaml --fractions 0.01 0.1 1 --seeds 3 \\
        --methods pretrained scratch data.shards=shards/ucm backbone.rgb=runs/a/export/rgb run.dir=runs/fractions
    deepspeed launchers/label_fractions.py --config … --methods pretrained 'early: network.fusion=early'

A method is `pretrained` (the configuration as it stands), a mode of tuning, or a name with overrides. Every cell is a
run in run.dir/<method>/<fraction>/<seed>; the same command goes on with what is missing, under any launcher. Smaller
shares are parts of larger ones of the same seed. Writes fractions.csv, fractions.json and fractions.png into run.dir.

Exit status: 0 done, or stopped by a signal; 2 something cannot be meant; 1 a run failed.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that nothing need be installed

from rspretrain.allocator import keep_large_tensors

if __name__ == "__main__":
    keep_large_tensors()


from safetensors import SafetensorError

from launchers.common import config_parser, exit_with, refuse, share_cores
from rspretrain import config, world
from rspretrain.engine.fractions import Cell, check_cells, collect, parse_method, plan, run_cells, write_report


def main() -> int:
    """Parse the command line, run what is missing, and show what is there."""
    arguments = parse()
    here = world.start()
    share_cores(here)
    try:
        methods = [parse_method(text) for text in arguments.methods]
        cells = plan(arguments.config, arguments.overrides, methods, arguments.fractions, arguments.seeds)
        folder = config.load_finetune(arguments.config, arguments.overrides).run.dir
        if arguments.dry_run:
            if here.is_first:
                print("\n".join(str(cell.settings.run.dir) for cell in cells))
            return 0
        deepspeed_launcher = arguments.local_rank is not None
        check_cells(cells, here, deepspeed_launcher)
    except (ValueError, OSError, SafetensorError) as error:
        return refuse(error, here)
    try:
        complete = run_cells(cells, here, deepspeed_launcher, lambda line: print(line, flush=True))
    except config.ConfigError as error:  # of a cell's folder; anything else is a failure and shows where
        return refuse(error, here)
    world.stop()
    if here.is_first:
        tell(cells, folder, complete)
    return 0


def parse() -> argparse.Namespace:
    """The command line; overrides may follow the methods, from which their `=` tells them."""
    parser = config_parser(__doc__, "configs/finetune/")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.01, 0.05, 0.1, 0.5, 1.0], help="of the labels")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every method and fraction")
    parser.add_argument("--methods", nargs="+", default=["pretrained", "scratch"], help="see above")
    arguments = parser.parse_intermixed_args()
    is_override = {text: "=" in text.partition(":")[0] for text in arguments.methods}
    arguments.overrides += [text for text in arguments.methods if is_override[text]]
    arguments.methods = [text for text in arguments.methods if not is_override[text]]
    return arguments


def tell(cells: list[Cell], folder: Path, complete: bool) -> None:
    """What is finished, and where it lies."""
    found = collect(cells)
    if not complete:
        print(f"Stopped by a signal with {len(found)} of {len(cells)} runs finished; the same command goes on.")
    if found:
        print(f"\n{write_report(cells, found, folder)}\n")
        print(f"numbers      {folder}/fractions.csv, {folder}/fractions.json")
        print(f"plot         {folder}/fractions.png")


if __name__ == "__main__":
    exit_with(main)
