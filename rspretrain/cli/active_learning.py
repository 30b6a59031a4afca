"""Active learning with a label budget: each round fine-tunes, tests, and chooses the images to label next.

    rspretrain active-learning --config ucmerced data.shards=data/ucmerced backbone.rgb=runs/byol/export/rgb \\
        run.dir=runs/al_mge_0 query.name=mge budget.seed=0
    rspretrain active-learning --config ucmerced … oracle=csv run.dir=runs/mine    # labels by hand
    rspretrain curves runs/al_* --png curve.png                                  # several runs in one figure

Writes into run.dir: active.json, active.csv and active.png (the learning curve), pool.json (the state), rounds/NN (one
fine-tuning run per round; `rspretrain predict` reads the export/classifier of the last). Exit status: 0 done, stopped
by a signal, or waiting for labels in a table (continue with --resume); 2 invalid configuration or input; 1 the run
failed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rspretrain.cli.common import announce, training_parser
from rspretrain.cli.main import run
from rspretrain.shipped_configs import find_config

if TYPE_CHECKING:
    from rspretrain.engine.active_learning import LoopStatus

NAME = "active-learning"


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return training_parser(NAME, __doc__).parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop, and print its state and the next step."""
    arguments = parse(argv)
    announce("Loading PyTorch and the configuration …")
    from safetensors import SafetensorError

    from rspretrain import config
    from rspretrain import world as distributed
    from rspretrain.cli.training import print_precision, refuse, share_cores
    from rspretrain.engine.active_learning import prepare_active
    from rspretrain.engine.run_dir import check_run_dir

    world = distributed.start()
    share_cores(world)
    try:
        settings = config.load_active(find_config(arguments.config, "active_learning"), arguments.overrides)
        if not arguments.dry_run:
            check_run_dir(settings.run.dir, arguments.resume)
        loop = prepare_active(settings, world, arguments.local_rank is not None, arguments.resume)
        if arguments.dry_run:
            if world.is_first:
                print(loop.plan)
            return 0
    except (ValueError, OSError, SafetensorError) as error:
        return refuse(NAME, error, world)
    print_precision(loop.settings, world)
    try:
        status = loop.run(lambda line: print(line, flush=True))
    except config.ConfigError as error:  # about run.dir or labels; any other error is a failure with a traceback
        return refuse(NAME, error, world)
    distributed.stop()
    if world.is_first:
        report(status, settings.run.dir)
    return 0


def report(status: "LoopStatus", folder: Path) -> None:
    """Print the closing lines."""
    from rspretrain.active_learning.curves import RESULTS_FILE

    if (folder / RESULTS_FILE).exists():
        print(table(folder))
    if status.tables:
        print("Labels are needed. Look at the images beside each table, fill in its column `labels` and save it:")
        for path in status.tables:
            print(f"  {path}   (classes and rules: {path.parent / 'README.txt'})")
        print("Then run the same command again with --resume.")
    elif status.is_stopped:
        print(f"Stopped by a signal with {status.complete} of {status.rounds} rounds complete; continue with --resume.")
    else:
        print(f"classifier   {folder}/rounds/{status.rounds - 1:02d}/export/classifier")
    if status.complete:
        print(f"curve        {folder}/active.png, {folder}/active.csv, {folder}/{RESULTS_FILE}")


def table(folder: Path) -> str:
    """The learning curve in percent, one line per round, and its mean over the rounds after a query."""
    from rspretrain.active_learning.curves import CURVE_METRICS, RESULTS_FILE
    from rspretrain.evaluation.metrics import METRIC_TITLES
    from rspretrain.files import read_json

    results = read_json(folder / RESULTS_FILE)
    shown = CURVE_METRICS[results["multi"]]
    lines = [f"query {results['query']}, tested on {results['num_test']:,} images; percent", ""]
    lines.append("  round  labels" + "".join(f"{METRIC_TITLES[name]:>13}" for name in shown))
    for point in results["rounds"]:
        cells = "".join(f"{100 * point[name]:13.1f}" for name in shown)
        lines.append(f"  {point['round']:>5}{point['labels']:>8,}{cells}")
    if results["mean_after_queries"]:
        cells = "".join(f"{100 * results['mean_after_queries'][name]:13.1f}" for name in shown)
        lines.append(f"  {'after queries':>13}{cells}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(run(NAME))
