"""What the launchers of training runs share: their command line, how they refuse, and cores for CPU ranks."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
from safetensors import SafetensorError

from rspretrain import world
from rspretrain.config import CommonSettings, ConfigError
from rspretrain.engine.job import Job, describe
from rspretrain.engine.trainer import Finish, train

Kind = TypeVar("Kind", bound=CommonSettings)


def exit_with(main: Callable[[], int]) -> NoReturn:
    """Run a launcher of training runs, without the warnings of libraries that no user can do anything about."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed")
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # DeepSpeed's calls
    sys.exit(main())


def training_parser(description: str | None, configs: str) -> argparse.ArgumentParser:
    """The command line of every training run."""
    parser = config_parser(description, configs)
    parser.add_argument("--resume", action="store_true", help="go on with the run in run.dir")
    return parser


def config_parser(description: str | None, configs: str) -> argparse.ArgumentParser:
    """The command line of whatever trains by a configuration."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help=f"YAML file; {configs} has some")
    parser.add_argument("--dry-run", action="store_true", help="print configuration, parameters, plan; write nothing")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher passes it
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="as in optim.lr=3e-4")
    return parser


def run_training(
    parser: argparse.ArgumentParser,
    load: Callable[[Path, Sequence[str]], Kind],
    prepare: Callable[[Kind, world.World, bool], Job],
    tell: Callable[[Finish, Kind], None],
) -> int:
    """Parse the command line of a training run, prepare it, run it, and `tell` where everything lies; exit status."""
    arguments = parser.parse_intermixed_args()
    here = world.start()
    share_cores(here)
    try:
        settings = load(arguments.config, arguments.overrides)
        job = prepare(settings, here, arguments.local_rank is not None)
        if arguments.dry_run:
            if here.is_first:
                print(describe(job))
            return 0
    except (ValueError, OSError, SafetensorError) as error:
        return refuse(error, here)
    try:
        finish = train(job, resume=arguments.resume, say=lambda line: print(line, flush=True))
    except ConfigError as error:  # of run.dir; anything else is a failure and shows where
        return refuse(error, here)
    world.stop()
    if here.is_first:
        tell(finish, settings)
    return 0


def refuse(error: Exception, here: world.World) -> int:
    """One paragraph from every machine, whose disks may differ, and exit status 2."""
    if here.local_rank == 0:
        print(f"error: {error}" if here.is_first else f"error on rank {here.rank}: {error}", file=sys.stderr)
    world.stop()
    return 2


def share_cores(here: world.World) -> None:
    """Give a CPU rank its share of this machine's cores."""
    threads = os.environ.get("OMP_NUM_THREADS")
    by_torchrun = threads == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    if here.device.type == "cpu" and (threads is None or by_torchrun):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world.local_size()))
