"""The folder of a run: creation, checks before a start or resume, and the ledger of sample keys."""

import json
from pathlib import Path
from typing import TextIO

import torch

from rspretrain import config
from rspretrain.batch import Batch
from rspretrain.files import write_atomically
from rspretrain.output_paths import check_folder
from rspretrain.streaming.sources import Sources
from rspretrain.world import World, barrier, broadcast_text, gather_stack, rank


def open_run_dir(settings: config.CommonSettings, world: World, resume: bool) -> bool:
    """Create or reuse the run folder and save the resolved configuration in it. Returns whether it had content.

    ConfigError if it has content without `resume`, or a configuration with other results.
    """
    folder = settings.run.dir
    saved = folder / "config.yaml"
    in_use = check_run_dir(folder, resume)
    if in_use and saved.is_file():
        config.check_same(saved, settings)
    barrier()
    if world.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(saved, config.dump(settings).encode())
    barrier()
    return in_use


def check_run_dir(folder: Path, resume: bool) -> bool:
    """Whether the run folder has content, as seen by the first rank. Collective.

    ConfigError on all ranks if the folder is not writable, or has content without `resume`.
    """
    error, in_use = "", False
    if rank() == 0:
        try:
            check_folder(folder, "run.dir")
            in_use = folder.is_dir() and any(folder.iterdir())
        except ValueError as unusable:
            error = str(unusable)
    if in_use and not resume:
        error = (
            f"run.dir: {folder} is not empty, expected a new folder. Resume that run with --resume, or choose another "
            "run.dir."
        )
    error, in_use = json.loads(broadcast_text(json.dumps([error, in_use])))
    if error:
        raise config.ConfigError(error)
    return bool(in_use)


def batch_keys(batch: Batch, sources: Sources) -> list[str]:
    """The keys of the global batch that was read, in rank order. Collective."""
    rows = gather_stack(torch.from_numpy(batch.rows.copy()))  # [R B]
    return sources.keys(rows.flatten().numpy())


class Ledger:
    """ledger.jsonl, with one line per step: {"step": finished steps, "keys": ordered keys of the global batch}."""

    def __init__(self, path: Path, resume_step: int) -> None:
        """Removes lines of steps after `resume_step`, because these steps will be repeated."""
        write_atomically(path, "".join(_lines_until(path, resume_step)).encode())
        self._file: TextIO = path.open("a")

    def write(self, step: int, keys: list[str]) -> None:
        """Append a line and flush it."""
        self._file.write(json.dumps({"step": step, "keys": keys}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    kept: list[str] = []
    if path.is_file():
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n") or json.loads(line)["step"] > step:  # incomplete, or to be repeated
                break
            kept.append(line)
    return kept
