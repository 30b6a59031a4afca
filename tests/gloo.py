"""Real ranks for tests: processes with a gloo process group. Nothing is mocked."""

import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from processes import CONTEXT


def run_ranks(size: int, function: Callable[..., Any], *args: Any, timeout_s: float = 120.0) -> list[Any]:
    """The results of `function(*args)` on `size` gloo ranks, in rank order. The function must be at module level.

    Results may hold tensors. RuntimeError with the traceback of the first rank that fails; the others are killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = [CONTEXT.Process(target=_rank, args=(rank, size, folder, function, args)) for rank in range(size)]
        for process in ranks:
            process.start()
        try:
            _wait(ranks, Path(folder), timeout_s)
        finally:
            for process in ranks:
                process.kill()
                process.join()
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(size)]


def _wait(ranks: list[Any], folder: Path, timeout_s: float) -> None:
    waited, tick_s = 0.0, 0.05
    while any(process.is_alive() for process in ranks):
        failed = sorted(folder.glob("*.error"))
        if failed:
            raise RuntimeError(f"rank {failed[0].stem} failed:\n{failed[0].read_text()}")
        if waited > timeout_s:
            raise RuntimeError(f"{len(ranks)} ranks did not end within {timeout_s} s; a collective may hang.")
        ranks[0].join(tick_s)
        waited += tick_s
        if not ranks[0].is_alive():
            for process in ranks[1:]:
                process.join(tick_s)
                waited += tick_s
    failed = sorted(folder.glob("*.error"))
    if failed:
        raise RuntimeError(f"rank {failed[0].stem} failed:\n{failed[0].read_text()}")
    died = [(rank, process.exitcode) for rank, process in enumerate(ranks) if process.exitcode]
    if died:
        raise RuntimeError(f"ranks ended without a result (rank, exit code): {died}")


def _rank(rank: int, size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
        torch.save(function(*args), Path(folder, f"{rank}.pt"))
        dist.barrier()
        dist.destroy_process_group()
    except Exception:
        # Renamed into place: the parent never reads half a traceback.
        Path(folder, f"{rank}.part").write_text(traceback.format_exc())
        Path(folder, f"{rank}.part").rename(Path(folder, f"{rank}.error"))
        raise
