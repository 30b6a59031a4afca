"""Pretrain backbones on a shard set. Alone, or on many ranks under deepspeed, torchrun or srun.

    python launchers/pretrain.py --config configs/pretrain/simclr_ucmerced.yaml data.shards=shards/ucm run.dir=runs/a
    deepspeed launchers/pretrain.py --config … train.epochs=20 optim.lr=3e-4
    torchrun --nproc-per-node 8 launchers/pretrain.py --config … strategy.name=fsdp

Exit status: 0 done, or stopped by SIGTERM or SIGUSR1 with a checkpoint written; 2 something in the configuration or the
input cannot be meant; 1 the run failed.

On CPUs every rank takes its share of the cores, unless OMP_NUM_THREADS says otherwise (torchrun sets it to 1 of its own
accord, and that 1 is not taken for yours).
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, so that nothing need be installed

from rspretrain.allocator import keep_large_tensors

if __name__ == "__main__":
    keep_large_tensors()

import torch

from rspretrain import config, world
from rspretrain.engine.job import describe, prepare
from rspretrain.engine.loop import Finish, train


def main() -> int:
    """Parse the command line, run, and say where everything lies."""
    arguments = parse()
    here = world.start()
    share_cores(here)
    try:
        settings = config.load(arguments.config, arguments.overrides)
        job = prepare(settings, here, deepspeed_launcher=arguments.local_rank is not None)
        if arguments.dry_run:
            if here.is_first:
                print(describe(job))
            return 0
    except ValueError as error:
        return refuse(error, here)
    try:
        finish = train(job, resume=arguments.resume, say=lambda line: print(line, flush=True))
    except config.ConfigError as error:  # of run.dir; anything else is a failure and shows where
        return refuse(error, here)
    world.stop()
    if here.is_first:
        tell(finish, settings)
    return 0


def refuse(error: ValueError, here: world.World) -> int:
    """One paragraph from every machine, whose disks may differ, and exit status 2."""
    if here.local_rank == 0:
        print(f"error: {error}" if here.is_first else f"error on rank {here.rank}: {error}", file=sys.stderr)
    world.stop()
    return 2


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file; configs/pretrain/ has some")
    parser.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    parser.add_argument("--dry-run", action="store_true", help="print configuration, parameters, plan; write nothing")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="as in optim.lr=3e-4")
    return parser.parse_intermixed_args()


def share_cores(here: world.World) -> None:
    """Give a CPU rank its share of this machine's cores."""
    threads = os.environ.get("OMP_NUM_THREADS")
    by_torchrun = threads == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    if here.device.type == "cpu" and (threads is None or by_torchrun):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world.local_size()))


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
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed")
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # DeepSpeed's calls
    sys.exit(main())
