"""Checkpoints that are whole or absent: one format for every strategy and any number of ranks; nothing is pickled.

checkpoints/step_00001234/
    weights.safetensors     every parameter and buffer of the objective, whole, float32, by name
    optimizer.safetensors   the optimizer's tensors, whole, as "exp_avg/<parameter>"
    state.json              where the run stands, and the SHA-256 of both files
checkpoints/latest          the name of the newest folder

Written under a temporary name, flushed to the disk, renamed; `latest` moves last. So a process killed at any moment
leaves the old checkpoint or the new one. Deviation from design.md D9 (torch.distributed.checkpoint, DeepSpeed's own):
whole tensors by name let a run go on under another strategy and another number of ranks without a conversion.
The run folder must be the same file system for all ranks.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rspretrain import world
from rspretrain.files import atomic_folder, write_atomically, write_json
from rspretrain.strategies.base import Strategy

WEIGHTS, OPTIMIZER, STATE, LATEST = "weights.safetensors", "optimizer.safetensors", "state.json", "latest"
FORMAT = 1


@dataclass(frozen=True)
class RunState:
    """Where a run stands; everything random follows from the step, so no generator is saved."""

    step: int  # finished steps
    updates: int  # finished steps that were not refused
    samples: int  # seen by all ranks together
    strategy: str  # that wrote it
    world_size: int  # that wrote it
    config_sha256: str
    shards_sha256: str
    threads: int = 0  # of the first rank, which share a sum on a CPU; 0: not noted


class DamagedCheckpointError(RuntimeError):
    """A checkpoint folder whose bytes are not those that were written."""


class Checkpoints:
    """The checkpoints of one run. Saving and loading are collective: every rank calls them together."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def save(self, strategy: Strategy, state: RunState, best_step: int | None = None) -> None:
        """Write the checkpoint of `state.step`; on return all ranks know that it is on the disk.

        The one of step `best_step` stays beside the newest ones; the first rank's word counts.
        """
        first = strategy.world.is_first
        weights = gather(strategy.weights(), first)
        optimizer = gather(strategy.optimizer_state(), first)
        if first:
            self._write(weights, optimizer, state, best_step)
        world.barrier()

    def _write(
        self, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: RunState, best_step: int | None
    ) -> None:
        name = _name(state.step)
        # A folder of this step exists where a run fell back behind it: damaged, or `latest` had not reached it.
        with atomic_folder(self.folder / name) as temporary:
            save_file(weights, temporary / WEIGHTS)
            save_file(optimizer, temporary / OPTIMIZER)
            files = {file: sha256_of(temporary / file) for file in (WEIGHTS, OPTIMIZER)}
            write_json(temporary / STATE, {"format": FORMAT, **asdict(state), "sha256": files})
        write_atomically(self.folder / LATEST, f"{name}\n".encode())
        self._prune({name, _name(state.step if best_step is None else best_step)})

    def _prune(self, kept: set[str]) -> None:
        others = sorted(path for path in self.folder.glob("step_*") if path.name not in kept)
        for path in others[: max(0, len(others) + 1 - self._keep)]:
            _discard(path)

    def keep_only(self, step: int) -> None:
        """Delete all but the checkpoint of one step, after the end of a run; the first rank alone calls it."""
        for path in sorted(self.folder.glob("step_*")):
            if path.name != _name(step):
                _discard(path)

    def weights(self, step: int) -> dict[str, Tensor]:
        """The whole weights of a step's checkpoint. DamagedCheckpointError where they are not what was written."""
        return read(self.folder / _name(step))[1]

    def load_latest(self, strategy: Strategy) -> RunState | None:
        """Load the newest whole checkpoint into the strategy; None where there is none.

        A damaged one is left out with a warning. RuntimeError where there are checkpoints and all are damaged.
        """
        # The first rank alone reads every byte; the others take its word. 0: none, -1: all damaged, else step + 1.
        found = self._find_whole() if strategy.world.is_first else 0
        found = int(world.sum_over_ranks(torch.tensor(found)).item())
        if found == 0:
            return None
        if found < 0:
            raise RuntimeError(
                f"No checkpoint in {self.folder} is whole: every one differs from its SHA-256 sums. Restore one from a "
                "copy, or remove the folder to begin again from step 0."
            )
        return self.load(strategy, found - 1)

    def load(self, strategy: Strategy, step: int) -> RunState:
        """Load the checkpoint of one step, known to be whole, into the strategy."""
        path = self.folder / _name(step)
        state = _read_state(path)[0]
        strategy.load(_Stored(path / WEIGHTS), _Stored(path / OPTIMIZER), state.updates)
        world.barrier()
        return state

    def _find_whole(self) -> int:
        candidates = self.candidates()
        for path in candidates:
            try:
                return read(path)[0].step + 1
            except DamagedCheckpointError as error:
                warnings.warn(f"{error} Going on with the one before.", stacklevel=2)
        return -1 if candidates else 0

    def candidates(self) -> list[Path]:
        """Checkpoint folders, the one that `latest` names first, then the others from new to old."""
        folders = sorted(self.folder.glob("step_*"), reverse=True)
        latest = self.folder / LATEST
        named = latest.read_text().strip() if latest.is_file() else ""
        return sorted(folders, key=lambda path: path.name != named)  # stable: the rest stays from new to old


def read(path: Path) -> tuple[RunState, dict[str, Tensor]]:
    """The state and the weights of one checkpoint folder, every byte checked. DamagedCheckpointError names the file."""
    state, sums = _read_state(path)
    for file, expected in sums.items():
        if not (path / file).is_file():
            raise DamagedCheckpointError(f"Checkpoint {path} is damaged: {file} is missing.")
        if (actual := sha256_of(path / file)) != expected:
            raise DamagedCheckpointError(f"Checkpoint {path} is damaged: {file} has SHA-256 {actual}, not {expected}.")
    try:
        return state, load_file(path / WEIGHTS)
    except SafetensorError as error:
        raise DamagedCheckpointError(f"Checkpoint {path} is damaged: {error}.") from None


def _read_state(path: Path) -> tuple[RunState, dict[str, str]]:
    try:
        content: dict[str, Any] = json.loads((path / STATE).read_text())
        version, sums = content.pop("format"), content.pop("sha256")
        state = RunState(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"Checkpoint {path} is damaged: {STATE} cannot be read ({error}).") from None
    if version != FORMAT:
        raise DamagedCheckpointError(f"Checkpoint {path} has format {version}; this program reads {FORMAT}.")
    return state, {file: sums.get(file, "") for file in (WEIGHTS, OPTIMIZER)}


class _Stored(Mapping[str, Tensor]):
    """A safetensors file, read tensor by tensor: a rank that holds shards never holds the whole."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, "pt")
        self._names = list(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def gather(tensors: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """All tensors on the CPU of the rank that keeps them; the others only take part in the collectives."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors if keep}


def _discard(path: Path) -> None:
    """Delete a folder; renamed first, so that a kill on the way leaves no half of it under its name."""
    doomed = path.with_name(f".old_{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    if path.exists():
        path.rename(doomed)
        shutil.rmtree(doomed)


def _name(step: int) -> str:
    return f"step_{step:08d}"


def sha256_of(path: Path) -> str:
    """Of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
