"""Writers for a run's metrics: `metrics.jsonl` always, wandb if configured. Only the first rank writes.

`metrics.jsonl` holds one JSON object per line: "step" first, then metrics by name at full precision, so `float` reads
back the number that was written. JSON has no NaN: such a value is null, and "nonfinite" maps its name to nan or inf.
"""

import json
import secrets
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rspretrain.files import decode_json, encode_json, write_atomically
from rspretrain.settings import Settings


class WatchSettings(Settings):
    """Destinations and frequency of metrics."""

    wandb: Literal["offline", "online", "off"] = Field(
        default="offline", description="wandb mode. offline writes to wandb/ in the run folder, for wandb sync."
    )
    project: str = Field(default="rspretrain", description="Name of the wandb project.")
    every: int = Field(
        default=10,
        gt=0,
        description="Interval between two lines of metrics in steps. Each line synchronises host and device once.",
    )


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every complete line of a metrics file with its content; an incomplete last line (a killed writer) is skipped."""
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):  # no newline at its end
                return
            raise ValueError(
                f"Line {number} of {path} is not JSON: {line[:60]!r}. Expected one JSON object per line. Repair or "
                "remove that line; checkpoints are not affected."
            ) from error
        yield line, content


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, with NaN and infinities restored."""
    return [decode_json(line) for line, _ in _lines(path)]


def _cut_after(path: Path, step: int) -> None:
    """Drop the lines of steps that a resumed run repeats. Atomic: the old or the new file exists at any moment."""
    kept = [line + "\n" for line, content in _lines(path) if content["step"] <= step]
    write_atomically(path, "".join(kept).encode())


class _Wandb:
    """A wandb run whose failures become one warning and never stop training."""

    def __init__(self, run_dir: Path, settings: WatchSettings, config: dict[str, Any]) -> None:
        self._run: Any = None
        if settings.wandb != "off":
            self._guard(lambda: self._start(run_dir, settings, config))

    def _start(self, run_dir: Path, settings: WatchSettings, config: dict[str, Any]) -> None:
        import wandb  # takes 0.3 s; only the first rank needs it, if wandb is on

        id_file = run_dir / "wandb_id"
        if not id_file.exists():
            write_atomically(id_file, secrets.token_hex(4).encode())
        self._run = wandb.init(
            project=settings.project,
            name=run_dir.name,
            id=id_file.read_text().strip(),
            # Offline, wandb ignores `resume` with a warning; the same id makes `wandb sync` continue the run.
            resume="allow" if settings.wandb == "online" else None,
            dir=run_dir,
            mode="online" if settings.wandb == "online" else "offline",
            config=config,
            settings=wandb.Settings(console="off", silent=True, disable_git=True, init_timeout=30, finish_timeout=60),
        )
        # Our own step axis: wandb's counter cannot go back, and a resumed run repeats some steps.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # training must continue after any failure of wandb
            self._run = None
            warnings.warn(
                f"wandb stopped: {type(error).__name__}: {error}. Training continues and metrics.jsonl has "
                "every number. Set watch.wandb=off to run without wandb.",
                stacklevel=2,
            )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.log({"step": step, **metrics}))

    def close(self, summary: dict[str, Any]) -> None:
        if self._run is not None:
            self._guard(lambda: self._run.summary.update(summary))
        if self._run is not None:
            self._guard(lambda: self._run.finish())
        self._run = None


class Sinks:
    """Writes a run's metrics. Names start with a group: train/ data/ perf/ health/ loss/ probe/."""

    def __init__(
        self,
        run_dir: Path,
        settings: WatchSettings,
        config: dict[str, Any],
        first: bool,
        resume_step: int | None,
    ) -> None:
        """`first`: this rank writes. `resume_step`: step of the checkpoint that the run resumes from, or None."""
        self._first = first
        self.lines: list[dict[str, float]] = []  # lines written before a resume
        if not first:
            return
        self.path = run_dir / "metrics.jsonl"
        if resume_step is not None and self.path.exists():
            _cut_after(self.path, resume_step)
            self.lines = read_metrics(self.path)
        elif self.path.exists():
            raise ValueError(
                f"{self.path} already exists, expected an empty folder for a new run. Continue that run with --resume, "
                "or choose another run.dir."
            )
        self._file = self.path.open("a")
        self._wandb = _Wandb(run_dir, settings, config)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line and flush it, so that other processes can read it."""
        if not self._first:
            return
        line = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        self._file.write(encode_json(line) + "\n")
        self._file.flush()
        self._wandb.log(step, metrics)

    def close(self, summary: dict[str, Any]) -> None:
        """End the run; wandb shows `summary` in its tables."""
        if not self._first:
            return
        self._file.close()
        self._wandb.close(summary)
