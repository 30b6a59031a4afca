"""Shared by the commands that train: from a parsed command line to a finished run, and how ranks report errors."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from rspretrain import world
from rspretrain.cli.common import typed
from rspretrain.config import CommonSettings, ConfigError
from rspretrain.engine.job import Job, describe
from rspretrain.engine.run_dir import check_run_dir
from rspretrain.engine.trainer import TrainResult, train
from rspretrain.shipped_configs import find_config
from rspretrain.strategies.precision import precision_text

Kind = TypeVar("Kind", bound=CommonSettings)


def run_training(
    command: str,
    arguments: argparse.Namespace,
    load: Callable[[Path, Sequence[str]], Kind],
    prepare: Callable[[Kind, world.World, bool], Job],
    report: Callable[[TrainResult, Kind], None],
) -> int:
    """Prepare a training run, run it, and `report` where its files are; exit status."""
    here = world.start()
    share_cores(here)
    try:
        settings = load(find_config(arguments.config, command), arguments.overrides)
        if not arguments.dry_run:
            check_run_dir(settings.run.dir, arguments.resume)
        job = prepare(settings, here, arguments.local_rank is not None)
        if arguments.dry_run:
            if here.is_first:
                print(describe(job))
            return 0
    except (ValueError, OSError, SafetensorError) as error:
        return refuse(command, error, here)
    print_precision(job.settings, here)
    try:
        result = train(job, resume=arguments.resume, log=lambda line: print(line, flush=True))
    except ConfigError as error:  # of run.dir; anything else is a failure, with a traceback
        return refuse(command, error, here)
    world.stop()
    if here.is_first:
        report(result, settings)
    return 0


def print_precision(settings: CommonSettings, here: world.World) -> None:
    """Print the precision of a run with settings resolved, with a warning where bf16 is emulated."""
    if here.is_first:
        print(precision_text(settings.strategy.precision, here.device), flush=True)


def refuse(command: str, error: Exception, here: world.World) -> int:
    """Print one paragraph per machine, whose disks may differ; exit status 2."""
    if here.local_rank == 0:
        rank = "" if here.is_first else f" on rank {here.rank}"
        print(f"{typed(command)}: error{rank}: {error}", file=sys.stderr)
    world.stop()
    return 2


def share_cores(here: world.World) -> None:
    """Give a CPU rank its share of this machine's cores."""
    threads = os.environ.get("OMP_NUM_THREADS")
    by_torchrun = threads == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    if here.device.type == "cpu" and (threads is None or by_torchrun):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // world.local_size()))
