"""Fine-tune exported backbones, or train networks from scratch, on the labels of a shard set.

    rspretrain finetune --config linear backbone.rgb=runs/a/export/rgb data.shards=data/ucmerced run.dir=runs/linear
    deepspeed --module rspretrain.cli.finetune --config sct_fusion_bigearthnet data.shards=data/ben \\
        backbone.s1=runs/a/export/s1 backbone.s2=runs/a/export/s2 run.dir=runs/sct

`rspretrain configs` lists the shipped configurations. Writes into run.dir: results.json (test metrics with intervals,
overall and per class), export/classifier (weights, classes, bands; for `rspretrain predict`), checkpoints,
metrics.jsonl. Exit status: 0 done, or stopped by a signal with a checkpoint written; 2 invalid configuration or input;
1 the run failed.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rspretrain.cli.common import announce, training_parser
from rspretrain.cli.main import run

if TYPE_CHECKING:
    from rspretrain.config import FinetuneSettings
    from rspretrain.engine.trainer import TrainResult


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return training_parser("finetune", __doc__).parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and print the results and the paths of the outputs."""
    arguments = parse(argv)
    announce("Loading PyTorch and the configuration …")
    from rspretrain import config
    from rspretrain.cli.training import run_training
    from rspretrain.engine.finetune import prepare_finetune

    return run_training("finetune", arguments, config.load_finetune, prepare_finetune, report)


def report(result: "TrainResult", settings: "FinetuneSettings") -> None:
    """Print the closing lines."""
    from rspretrain.files import read_json

    folder = settings.run.dir
    if not result.is_complete:
        print(f"Stopped by a signal after step {result.step} of {result.total_steps}; continue with --resume.")
        print(f"checkpoints  {folder}/checkpoints/step_{result.step:08d}")
        return
    print(table(read_json(folder / "results.json")))
    print(f"metrics      {folder}/metrics.jsonl, {folder}/summary.json")
    print(f"results      {folder}/results.json")
    print(f"classifier   {result.exports['classifier']}")


def table(results: dict[str, Any]) -> str:
    """Test metrics with their intervals, then one line per class."""
    from rspretrain.evaluation.metrics import METRIC_TITLES

    test, intervals = results["test"], results["intervals_95"]
    lines = [
        f"trained on {results['n_train']:,} images, weights of step {results['step']:,} chosen on "
        f"{results['n_val']:,}, tested on {results['n_test']:,}; percent, with 95 % intervals",
        "",
    ]
    for name in (name for name in METRIC_TITLES if name in test):
        interval = (
            f"   {100 * intervals[name]['low']:5.1f} to {100 * intervals[name]['high']:5.1f}"
            if name in intervals
            else ""
        )
        lines.append(f"  {METRIC_TITLES[name]:<14}{100 * test[name]:5.1f}{interval}")
    columns = {"AP": "ap_per_class", "F1": "f1_per_class"} if results["multi"] else {"recall": "recall_per_class"}
    width = max(map(len, results["classes"])) + 2
    lines += ["", "  " + "class".ljust(width) + "".join(f"{title:>8}" for title in columns) + "    images"]
    for number, name in enumerate(results["classes"]):
        cells = "".join(f"{100 * test[column][number]:8.1f}" for column in columns.values())
        lines.append(f"  {name:<{width}}{cells}{test['support_per_class'][number]:>10,}")
    absent = results["classes"] and sum(support == 0 for support in test["support_per_class"])
    if absent:
        effect = "; each counts as 0 in the macro averages" if results["multi"] else ""
        lines.append(f"  {absent} of {len(results['classes'])} classes have no test image{effect}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(run("finetune"))
