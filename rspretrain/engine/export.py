"""What a run exists for: a folder of weights with their contract for every sensor, from a run or a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from rspretrain import config
from rspretrain.config import ConfigError, RunSettings
from rspretrain.engine.checkpoint import Checkpoints, read
from rspretrain.nn.weights import export_backbone
from rspretrain.objectives import build_objective
from rspretrain.objectives.base import Objective
from rspretrain.streaming.sources import open_sources


def export_all(
    objective: Objective, weights: Mapping[str, Tensor], folder: Path, provenance: dict[str, Any]
) -> dict[str, Path]:
    """Every backbone of an objective into `folder`/<its name>; the folders by name. Call on one rank.

    `weights`: the objective's state dict with whole tensors, because its own may be shards.
    """
    inputs, places, folders = objective.inputs(), {part: name for name, part in objective.named_modules()}, {}
    for name, backbone in objective.backbones().items():
        prefix = f"{places[backbone]}.model."
        own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        folders[name] = export_backbone(backbone, inputs[name].normalisations(), folder / name, provenance, own)
    return folders


def provenance(settings: RunSettings, step: int, shards_sha256: str) -> dict[str, Any]:
    """Where the weights of a run come from."""
    return {
        "run": settings.run.name or settings.run.dir.name,
        "objective": settings.objective.model_dump(mode="json"),
        "step": step,
        "samples_seen": step * settings.train.global_batch,
        "seed": settings.run.seed,
        "shards": " + ".join(source.display_name for source in settings.data.all_sources()),
        "shards_sha256": shards_sha256,
    }


Whose = Literal["student", "teacher"]


def export_checkpoint(run_dir: Path, step: int | None, out: Path | None, whose: Whose | None = None) -> dict[str, Path]:
    """Export from the checkpoint of a step, or the newest; to `out`, or to <run>/export_step_<step>.

    `whose`: of an objective that has both; None: as objective.export says. ConfigError where the run or the step does
    not exist, or there is no teacher; DamagedCheckpointError where its bytes are not those written.
    """
    settings = saved_settings(run_dir)
    if whose is not None:
        settings = _exporting(settings, whose)
    path = _find(run_dir, step)
    state, weights = read(path)
    groups = list(open_sources(settings.data).groups.values())
    objective = build_objective(settings.objective, settings.sensors, settings.backbone, groups)
    objective.load_state_dict(weights)
    folder = out or run_dir / f"export_{path.name}"
    return export_all(objective, weights, folder, provenance(settings, state.step, state.shards_sha256))


def _exporting(settings: RunSettings, whose: Whose) -> RunSettings:
    if "export" not in type(settings.objective).model_fields:
        raise ConfigError(
            f"--whose: got {whose!r} for the objective {settings.objective.name!r}, which has one network a sensor, "
            "expected none. Leave it out."
        )
    return settings.model_copy(update={"objective": settings.objective.model_copy(update={"export": whose})})


def _find(run_dir: Path, step: int | None) -> Path:
    paths = Checkpoints(run_dir / "checkpoints", keep=1).candidates()
    steps = {int(path.name.removeprefix("step_")): path for path in paths}
    if not paths or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"step {step}"
        there = ", ".join(str(number) for number in sorted(steps)) or "none"
        raise ConfigError(
            f"--step: {run_dir} has no {wanted}; its checkpoints are of steps: {there}. Name one of them."
        )
    return paths[0] if step is None else steps[step]


def saved_settings(run_dir: Path) -> RunSettings:
    """The configuration that a run wrote. ConfigError where the folder is no run."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"--run: {run_dir} has no config.yaml, expected the folder of a run (run.dir).")
    return config.load(path)
