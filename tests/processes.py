"""Subprocesses for tests that start quickly, because a fork server has imported torch for all of them."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch",
        "torch.distributed.tensor",
        "rspretrain.engine.active_learning",
        "rspretrain.strategies.fsdp",
        "rspretrain.strategies.deepspeed",
        "torchmetrics.functional.classification",
        "sklearn.cluster",
        "fsspec.implementations.http",
    ]
)


def start(target: Callable[..., Any], *arguments: object) -> ForkServerProcess:
    """Start a subprocess that runs a module-level function."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def join(processes: list[ForkServerProcess], timeout_s: float = 80) -> list[int | None]:
    """The exit codes; None for processes that do not end in time."""
    for process in processes:
        process.join(timeout_s)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes
