"""Pretrain backbones on a shard set. Alone, or on many ranks under deepspeed, torchrun or srun.

    python launchers/pretrain.py --config configs/pretrain/simclr_ucmerced.yaml data.shards=shards/ucm run.dir=runs/a
    deepspeed launchers/pretrain.py --config … train.epochs=20 optim.lr=3e-4
    torchrun --nproc-per-node 8 launchers/pretrain.py --config … strategy.name=fsdp

Exit status: 0 done, or stopped by SIGTERM or SIGUSR1 with a checkpoint written; 2 something in the configuration or the
input cannot be meant; 1 the run failed.

On CPUs every rank takes its share of the cores, unless OMP_NUM_THREADS says otherwise (torchrun sets it to 1 of its own
accord, and that 1 is not taken for yours).
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that nothing need be installed

from rspretrain.allocator import keep_large_tensors

if __name__ == "__main__":
    keep_large_tensors()

from launchers.common import exit_with, run_training, training_parser
from rspretrain import config
from rspretrain.engine.job import prepare
from rspretrain.engine.trainer import Finish


def main() -> int:
    """Parse the command line, run, and say where everything lies."""
    return run_training(training_parser(__doc__, "configs/pretrain/"), config.load, prepare, tell)


def tell(finish: Finish, settings: config.RunSettings) -> None:
    """The closing lines."""
    folder = settings.run.dir
    if not finish.is_complete:
        print(f"Stopped by a signal after step {finish.step} of {finish.total_steps}; go on with --resume.")
    print(f"checkpoints  {folder}/checkpoints/step_{finish.step:08d}")
    print(f"metrics      {folder}/metrics.jsonl, {folder}/summary.json")
    for sensor, path in finish.exports.items():
        print(f"backbone {sensor:<4}{path}")


if __name__ == "__main__":
    exit_with(main)
