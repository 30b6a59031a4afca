"""Pretrain backbones on a shard set, in one process or on many ranks under deepspeed, torchrun or srun.

    rspretrain pretrain --config simclr_ucmerced data.shards=data/ucmerced run.dir=runs/a
    deepspeed --module rspretrain.cli.pretrain --config simclr_ucmerced train.epochs=20 optim.lr=3e-4
    torchrun --nproc-per-node 8 -m rspretrain.cli.pretrain --config simclr_ucmerced strategy.name=fsdp

`rspretrain configs` lists the shipped configurations. Exit status: 0 done, or stopped by SIGTERM or SIGUSR1 with a
checkpoint written; 2 invalid configuration or input; 1 the run failed.

On CPUs, every rank takes its share of the cores unless OMP_NUM_THREADS is set. (torchrun sets it to 1 on its own; that
1 is ignored.)
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rspretrain.cli.common import announce, training_parser
from rspretrain.cli.main import run

if TYPE_CHECKING:
    from rspretrain.config import RunSettings
    from rspretrain.engine.trainer import TrainResult


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return training_parser("pretrain", __doc__).parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run, and print the paths of the outputs."""
    arguments = parse(argv)
    announce("Loading PyTorch and the configuration …")
    from rspretrain import config
    from rspretrain.cli.training import run_training
    from rspretrain.engine.job import prepare

    return run_training("pretrain", arguments, config.load, prepare, report)


def report(result: "TrainResult", settings: "RunSettings") -> None:
    """Print the closing lines."""
    folder = settings.run.dir
    if not result.is_complete:
        print(f"Stopped by a signal after step {result.step} of {result.total_steps}; continue with --resume.")
    print(f"checkpoints  {folder}/checkpoints/step_{result.step:08d}")
    print(f"metrics      {folder}/metrics.jsonl, {folder}/summary.json")
    for sensor, path in result.exports.items():
        print(f"backbone {sensor:<4}{path}")


if __name__ == "__main__":
    sys.exit(run("pretrain"))
