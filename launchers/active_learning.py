"""Spend a budget of labels in rounds: fine-tune, test, choose the images that tell most, get their labels, again.

    python launchers/active_learning.py --config configs/active_learning/ucmerced.yaml data.shards=shards/ucmerced \\
        backbone.rgb=runs/byol/export/rgb run.dir=runs/al_mge_0 query.name=mge budget.seed=0
    python launchers/active_learning.py --config … oracle=csv run.dir=runs/mine    # people label
    python launchers/curves.py runs/al_* --png curve.png                         # several runs in one figure

Writes into run.dir: active.json, active.csv and active.png (the learning curve), pool.json (the state), rounds/NN (one
fine-tuning run each; the last one's export/classifier is for launchers/predict.py); docs/active_learning.md. Exit
status: 0 done, stopped by a signal, or waiting for people to fill a table (--resume goes on); 2 something cannot be
meant; 1 the run failed.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that nothing need be installed

from rspretrain.allocator import keep_large_tensors

if __name__ == "__main__":
    keep_large_tensors()


from safetensors import SafetensorError

from launchers.common import exit_with, refuse, share_cores, training_parser
from rspretrain import config, world
from rspretrain.active_learning.curves import FILE, SHOWN
from rspretrain.engine.active_learning import Standing, prepare_active
from rspretrain.evaluation.metrics import METRIC_TITLES
from rspretrain.files import read_json


def main() -> int:
    """Parse the command line, run, and say how the loop stands and what comes next."""
    arguments = training_parser(__doc__, "configs/active_learning/").parse_intermixed_args()
    here = world.start()
    share_cores(here)
    try:
        settings = config.load_active(arguments.config, arguments.overrides)
        loop = prepare_active(settings, here, arguments.local_rank is not None, arguments.resume)
        if arguments.dry_run:
            if here.is_first:
                print(loop.plan)
            return 0
    except (ValueError, OSError, SafetensorError) as error:
        return refuse(error, here)
    try:
        standing = loop.run(lambda line: print(line, flush=True))
    except config.ConfigError as error:  # of run.dir and of labels; anything else is a failure and shows where
        return refuse(error, here)
    world.stop()
    if here.is_first:
        tell(standing, settings.run.dir)
    return 0


def tell(standing: Standing, folder: Path) -> None:
    """The closing lines."""
    if (folder / FILE).exists():
        print(table(folder))
    if standing.tables:
        print("Labels are wanted. Look at the pictures beside each table, fill its column `labels` and save it:")
        for path in standing.tables:
            print(f"  {path}   (classes and rules: {path.parent / 'README.txt'})")
        print("Then give the same command again with --resume.")
    elif standing.is_stopped:
        print(
            f"Stopped by a signal with {standing.complete} of {standing.rounds} rounds complete; go on with --resume."
        )
    else:
        print(f"classifier   {folder}/rounds/{standing.rounds - 1:02d}/export/classifier")
    if standing.complete:
        print(f"curve        {folder}/active.png, {folder}/active.csv, {folder}/{FILE}")


def table(folder: Path) -> str:
    """The learning curve in percent, one line a round, and its mean over the rounds after a query."""
    told = read_json(folder / FILE)
    shown = SHOWN[told["multi"]]
    lines = [f"query {told['query']}, tested on {told['num_test']:,} images; percent", ""]
    lines.append("  round  labels" + "".join(f"{METRIC_TITLES[name]:>13}" for name in shown))
    for point in told["rounds"]:
        cells = "".join(f"{100 * point[name]:13.1f}" for name in shown)
        lines.append(f"  {point['round']:>5}{point['labels']:>8,}{cells}")
    if told["mean_after_queries"]:
        cells = "".join(f"{100 * told['mean_after_queries'][name]:13.1f}" for name in shown)
        lines.append(f"  {'after queries':>13}{cells}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    exit_with(main)
