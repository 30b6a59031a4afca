"""Shared by the commands that train: from a parsed command line to a finished run, and how ranks report errors."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError

from rspretrain import world as distributed
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
    prepare: Callable[[Kind, distributed.World, bool], Job],
    report: Callable[[TrainResult, Kind], None],
) -> int:
    """Prepare a training run, run it and call `report`; returns the exit status."""
    world = distributed.start()
    share_cores(world)
    try:
        settings = load(find_config(arguments.config, command), arguments.overrides)
        if not arguments.dry_run:
            check_run_dir(settings.run.dir, arguments.resume)
        job = prepare(settings, world, arguments.local_rank is not None)
        if arguments.dry_run:
            if world.is_first:
                print(describe(job))
            return 0
    except (ValueError, OSError, SafetensorError) as error:
        return refuse(command, error, world)
    print_precision(job.settings, world)
    try:
        result = train(job, resume=arguments.resume, log=lambda line: print(line, flush=True))
    except ConfigError as error:  # about run.dir; any other error is a failure with a traceback
        return refuse(command, error, world)
    distributed.stop()
    if world.is_first:
        report(result, settings)
    return 0


def print_precision(settings: CommonSettings, world: distributed.World) -> None:
    """Print the precision of a run with settings resolved, with a warning where bf16 is emulated."""
    if world.is_first:
        print(precision_text(settings.strategy.precision, world.device), flush=True)


def refuse(command: str, error: Exception, world: distributed.World) -> int:
    """Print the error once per machine, because their disks may differ; exit status 2."""
    if world.local_rank == 0:
        rank = "" if world.is_first else f" on rank {world.rank}"
        print(f"{typed(command)}: error{rank}: {error}", file=sys.stderr)
    distributed.stop()
    return 2


def share_cores(world: distributed.World) -> None:
    """Give a CPU rank its share of this machine's cores."""
    threads = os.environ.get("OMP_NUM_THREADS")
    by_torchrun = threads == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    if world.device.type == "cpu" and (threads is None or by_torchrun):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // distributed.local_size()))
