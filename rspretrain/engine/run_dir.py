"""What the loop writes beside metrics: the ledger of keys, the batch that was refused, the run's own folder."""

import json
from pathlib import Path
from typing import TextIO

import torch

from rspretrain import config, world
from rspretrain.batch import Batch
from rspretrain.files import write_atomically
from rspretrain.streaming.sources import Sources
from rspretrain.world import World


def claim_run_dir(settings: config.CommonSettings, world_: World, resume: bool) -> bool:
    """Make the run's folder, or go on in it, and save the resolved configuration there. True where it was in use.

    ConfigError where it is in use without `resume`, or by a run of other mathematics.
    """
    folder = settings.run.dir
    saved = folder / "config.yaml"
    in_use = int(world_.is_first and folder.is_dir() and any(folder.iterdir()))
    in_use = int(world.sum_over_ranks(torch.tensor(in_use)).item())  # one rank looks: the others might see its work
    if in_use and not resume:
        raise config.ConfigError(
            f"run.dir: {folder} is not empty, expected a new folder. Go on with that run by --resume, or choose "
            "another run.dir."
        )
    if in_use and saved.is_file():
        config.check_same(saved, settings)
    world.barrier()
    if world_.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(saved, config.dump(settings).encode())
    world.barrier()
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
