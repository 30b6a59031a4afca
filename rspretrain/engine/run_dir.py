"""What the loop writes beside metrics: the ledger of keys, the batch that was refused, the run's own folder."""

import json
from pathlib import Path
from typing import TextIO

import torch

from rspretrain import config, world
from rspretrain.batch import Batch
from rspretrain.files import write_atomically
from rspretrain.output_paths import check_folder
from rspretrain.streaming.sources import Sources
from rspretrain.world import World


def claim_run_dir(settings: config.CommonSettings, world_: World, resume: bool) -> bool:
    """Make the run's folder, or go on in it, and save the resolved configuration there. True where it was in use.

    ConfigError where it is in use without `resume`, or by a run of other mathematics.
    """
    folder = settings.run.dir
    saved = folder / "config.yaml"
    in_use = check_run_dir(folder, resume)
    if in_use and saved.is_file():
        config.check_same(saved, settings)
    world.barrier()
    if world_.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(saved, config.dump(settings).encode())
    world.barrier()
    return in_use


def check_run_dir(folder: Path, resume: bool) -> bool:
    """Whether a run's folder has content already. All ranks call it; only the first one looks.

    ConfigError on all ranks where the folder cannot be written to, or has content without `resume`.
    """
    error, in_use = "", False
    if world.rank() == 0:
        try:
            check_folder(folder, "run.dir")
            in_use = folder.is_dir() and any(folder.iterdir())
        except ValueError as unusable:
            error = str(unusable)
    if in_use and not resume:
        error = (
            f"run.dir: {folder} is not empty, expected a new folder. Go on with that run by --resume, or choose "
            "another run.dir."
        )
    error, in_use = json.loads(world.from_first(json.dumps([error, in_use])))
    if error:
        raise config.ConfigError(error)
    return bool(in_use)


def batch_keys(batch: Batch, sources: Sources) -> list[str]:
    """The keys of the global batch that was really consumed, in rank order; collective."""
    rows = world.gather_stack(torch.from_numpy(batch.rows.copy()))  # [R B]
    return sources.keys(rows.flatten().numpy())


class Ledger:
    """ledger.jsonl: one line a step, {"step": finished steps, "keys": ordered keys of the global batch}."""

    def __init__(self, path: Path, resume_step: int) -> None:
        """Lines of steps after `resume_step`, which will be taken again, are cut off."""
        write_atomically(path, "".join(_lines_until(path, resume_step)).encode())
        self._file: TextIO = path.open("a")

    def write(self, step: int, keys: list[str]) -> None:
        """Add a line and hand it to the operating system."""
        self._file.write(json.dumps({"step": step, "keys": keys}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """No more lines."""
        self._file.close()


def _lines_until(path: Path, step: int) -> list[str]:
    kept: list[str] = []
    if path.is_file():
        for line in path.read_text().splitlines(keepends=True):
            if not line.endswith("\n") or json.loads(line)["step"] > step:  # torn by a kill, or to be taken again
                break
            kept.append(line)
    return kept
