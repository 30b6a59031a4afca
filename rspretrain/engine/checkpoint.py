"""Atomic checkpoints in one format for every strategy and any number of ranks. Nothing is pickled.

checkpoints/step_00001234/
    weights.safetensors     every parameter and buffer of the objective as a whole tensor, float32, by name
    optimizer.safetensors   the optimizer state as whole tensors, by "exp_avg/<parameter>"
    state.json              the state of the run, and the SHA-256 of both files
checkpoints/latest          the name of the newest folder

A checkpoint is written under a temporary name, flushed to disk and renamed; `latest` is updated last. A process that is
killed at any moment therefore leaves the old or the new checkpoint. Instead of torch.distributed.checkpoint and
DeepSpeed's own format: with whole tensors by name, a run can resume under another strategy and number of ranks without
conversion. All ranks must see the run folder on the same file system.
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
    """The state of a run. Random numbers are functions of the step, so no generator state is saved."""

    step: int  # finished steps
    updates: int  # finished steps that were not refused
    samples: int  # read by all ranks together
    strategy: str  # that wrote the checkpoint
    world_size: int  # when it was written
    config_sha256: str
    shards_sha256: str
    threads: int = 0  # CPU threads of the first rank, which affect rounding; 0: unknown


class DamagedCheckpointError(RuntimeError):
    """A checkpoint that is incomplete or differs from its checksums."""


class Checkpoints:
    """The checkpoints of one run. Saving and loading are collective."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self._keep = folder, keep

    def save(self, strategy: Strategy, state: RunState, best_step: int | None = None) -> None:
        """Write the checkpoint of `state.step`. When it returns on any rank, the checkpoint is on disk.

        The checkpoint of `best_step` is kept in addition to the newest ones; the first rank's value is used.
        """
        first = strategy.world.is_first
        weights = gather_to_cpu(strategy.weights(), first)
        optimizer = gather_to_cpu(strategy.optimizer_state(), first)
        if first:
            self._write(weights, optimizer, state, best_step)
        world.barrier()

    def _write(
        self, weights: dict[str, Tensor], optimizer: dict[str, Tensor], state: RunState, best_step: int | None
    ) -> None:
        name = _name(state.step)
        # A folder of this step exists if the run resumed from an earlier one: it is damaged, or newer than `latest`.
        with atomic_folder(self.folder / name) as temporary:
            save_file(weights, temporary / WEIGHTS)
            save_file(optimizer, temporary / OPTIMIZER)
            files = {file: file_sha256(temporary / file) for file in (WEIGHTS, OPTIMIZER)}
            write_json(temporary / STATE, {"format": FORMAT, **asdict(state), "sha256": files})
        write_atomically(self.folder / LATEST, f"{name}\n".encode())
        self._prune({name, _name(state.step if best_step is None else best_step)})

    def _prune(self, kept: set[str]) -> None:
        others = sorted(path for path in self.folder.glob("step_*") if path.name not in kept)
        for path in others[: max(0, len(others) + 1 - self._keep)]:
            _delete_folder(path)

    def keep_only(self, step: int) -> None:
        """Delete all checkpoints except that of `step`, after the end of a run. First rank only."""
        for path in sorted(self.folder.glob("step_*")):
            if path.name != _name(step):
                _delete_folder(path)

    def weights(self, step: int) -> dict[str, Tensor]:
        """The weights in the checkpoint of a step. DamagedCheckpointError if it is damaged."""
        return read_checkpoint(self.folder / _name(step))[1]

    def load_latest(self, strategy: Strategy) -> RunState | None:
        """Load the newest intact checkpoint into the strategy; None if there is no checkpoint.

        Damaged checkpoints are skipped with a warning. RuntimeError if all checkpoints are damaged.
        """
        # Only the first rank verifies checksums, for all ranks. 0: no checkpoint, -1: all damaged, else step + 1.
        found = self._find_intact() if strategy.world.is_first else 0
        found = int(world.sum_over_ranks(torch.tensor(found)).item())
        if found == 0:
            return None
        if found < 0:
            raise RuntimeError(
                f"All checkpoints in {self.folder} are damaged: they differ from their SHA-256 checksums. Restore one "
                "from a copy, or remove the folder to start from step 0."
            )
        return self.load(strategy, found - 1)

    def load(self, strategy: Strategy, step: int) -> RunState:
        """Load the checkpoint of one step, which must be intact, into the strategy."""
        path = self.folder / _name(step)
        state = _read_state(path)[0]
        strategy.load(_LazyTensors(path / WEIGHTS), _LazyTensors(path / OPTIMIZER), state.updates)
        world.barrier()
        return state

    def _find_intact(self) -> int:
        candidates = self.candidates()
        for path in candidates:
            try:
                return read_checkpoint(path)[0].step + 1
            except DamagedCheckpointError as error:
                warnings.warn(f"{error} Using the previous checkpoint.", stacklevel=2)
        return -1 if candidates else 0

    def candidates(self) -> list[Path]:
        """Checkpoint folders: first the one named in `latest`, then the others from new to old."""
        folders = sorted(self.folder.glob("step_*"), reverse=True)
        latest = self.folder / LATEST
        named = latest.read_text().strip() if latest.is_file() else ""
        return sorted(folders, key=lambda path: path.name != named)  # the sort is stable: the others stay ordered


def read_checkpoint(path: Path) -> tuple[RunState, dict[str, Tensor]]:
    """The state and the weights in one checkpoint folder, after verifying all checksums. DamagedCheckpointError."""
    state, sums = _read_state(path)
    for file, expected in sums.items():
        if not (path / file).is_file():
            raise DamagedCheckpointError(f"Checkpoint {path} is damaged: {file} is missing.")
        if (actual := file_sha256(path / file)) != expected:
            raise DamagedCheckpointError(
                f"Checkpoint {path} is damaged: {file} has SHA-256 {actual}, expected {expected}."
            )
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
        raise DamagedCheckpointError(f"Checkpoint {path} has format {version}, expected {FORMAT}.")
    return state, {file: sums.get(file, "") for file in (WEIGHTS, OPTIMIZER)}


class _LazyTensors(Mapping[str, Tensor]):
    """A safetensors file that is read tensor by tensor, so that a rank with sharded weights never holds them all."""

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


def gather_to_cpu(tensors: Iterable[tuple[str, Tensor]], keep: bool) -> dict[str, Tensor]:
    """All tensors on the CPU if `keep`, else an empty dictionary. Collective."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors if keep}


def _delete_folder(path: Path) -> None:
    """Rename a folder, then delete it, so that a killed process leaves no incomplete folder under its name."""
    renamed = path.with_name(f".old_{path.name}")
    shutil.rmtree(renamed, ignore_errors=True)
    if path.exists():
        path.rename(renamed)
        shutil.rmtree(renamed)


def _name(step: int) -> str:
    return f"step_{step:08d}"


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
