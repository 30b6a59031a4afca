"""Exports backbones from a run or a checkpoint: one folder per backbone, with weights and input description."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from torch import Tensor

from rspretrain import config
from rspretrain.config import ConfigError, RunSection, RunSettings
from rspretrain.engine.checkpoint import Checkpoints, read_checkpoint
from rspretrain.nn.weights import export_backbone
from rspretrain.objectives import build_objective
from rspretrain.objectives.base import Objective, ObjectiveSettings
from rspretrain.streaming.settings import DataSettings
from rspretrain.streaming.sources import open_sources


def export_backbones(
    objective: Objective, weights: Mapping[str, Tensor], folder: Path, provenance: dict[str, Any]
) -> dict[str, Path]:
    """Export every backbone of an objective to `folder`/<name>; returns the folders by name. Call on one rank.

    `weights`: the objective's state dict with whole tensors, because the objective may be sharded.
    """
    inputs, names, folders = objective.inputs(), {part: name for name, part in objective.named_modules()}, {}
    for name, backbone in objective.backbones().items():
        prefix = f"{names[backbone]}.model."
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        folders[name] = export_backbone(backbone, inputs[name].normalisations(), folder / name, provenance, own)
    return folders


@final
@dataclass(frozen=True)
class Origin:
    """The origin of the weights of a run, for the export."""

    run: RunSection
    data: DataSettings
    objective: ObjectiveSettings
    global_batch: int
    shards_sha256: str

    def at(self, step: int) -> dict[str, Any]:
        """The provenance of the weights after `step` steps."""
        return {
            "run": self.run.name or self.run.dir.name,
            "objective": self.objective.model_dump(mode="json"),
            "step": step,
            "samples_seen": step * self.global_batch,
            "seed": self.run.seed,
            "shards": " + ".join(source.display_name for source in self.data.all_sources()),
            "shards_sha256": self.shards_sha256,
        }


StudentOrTeacher = Literal["student", "teacher"]


def export_checkpoint(
    run_dir: Path, step: int | None, out: Path | None, whose: StudentOrTeacher | None = None
) -> dict[str, Path]:
    """Export the checkpoint of `step` (None: the newest) to `out` (None: <run>/export_step_<step>).

    `whose`: for objectives with student and teacher; None: objective.export. ConfigError if the run, the step or the
    teacher does not exist; DamagedCheckpointError if the checkpoint is damaged.
    """
    settings = saved_settings(run_dir)
    if whose is not None:
        settings = _with_export(settings, whose)
    path = _find(run_dir, step)
    state, weights = read_checkpoint(path)
    groups = list(open_sources(settings.data).groups.values())
    objective = build_objective(settings.objective, settings.sensors, settings.backbone, groups)
    objective.load_state_dict(weights)
    folder = out or run_dir / f"export_{path.name}"
    origin = Origin(settings.run, settings.data, settings.objective, settings.train.global_batch, state.shards_sha256)
    return export_backbones(objective, weights, folder, origin.at(state.step))


def _with_export(settings: RunSettings, whose: StudentOrTeacher) -> RunSettings:
    if "export" not in type(settings.objective).model_fields:
        raise ConfigError(
            f"--whose: got {whose!r} for the objective {settings.objective.name!r}, expected none: it has no teacher. "
            "Remove --whose."
        )
    return settings.model_copy(update={"objective": settings.objective.model_copy(update={"export": whose})})


def _find(run_dir: Path, step: int | None) -> Path:
    paths = Checkpoints(run_dir / "checkpoints", keep=1).candidates()
    steps = {int(path.name.removeprefix("step_")): path for path in paths}
    if not paths:
        raise ConfigError(f"--run: {run_dir} has no checkpoint, expected a run that saved one. Train it first.")
    if step is not None and step not in steps:
        available = ", ".join(str(number) for number in sorted(steps))
        raise ConfigError(f"--step: {run_dir} has no step {step}, expected one of: {available}. Choose one of them.")
    return paths[0] if step is None else steps[step]


def saved_settings(run_dir: Path) -> RunSettings:
    """The configuration of a run. ConfigError if the folder is not a run folder."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"--run: {run_dir} has no config.yaml, expected a run folder. Give the run.dir of a run.")
    return config.load(path)
