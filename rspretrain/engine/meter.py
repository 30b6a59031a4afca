"""From steps to numbers: every `watch.every` steps, averaged over ranks, to the sinks and to the person who watches."""

import time
from collections.abc import Callable

import torch

from rspretrain import world
from rspretrain.engine.job import Job
from rspretrain.observe.progress import Progress
from rspretrain.observe.sinks import Sinks
from rspretrain.strategies.base import StepReport, Strategy


class Meter:
    """Times the steps between two lines of metrics and writes the lines. All ranks call it together."""

    def __init__(self, job: Job, strategy: Strategy, sinks: Sinks, progress: Progress, first_step: int) -> None:
        self._job, self._strategy, self._sinks, self._progress = job, strategy, sinks, progress
        self._first_step, self._began = first_step, time.perf_counter()
        self._step, self._time, self._waited = first_step, self._began, job.loader.wait_s
        self.latest: dict[str, float] = {}

    def after(self, step: int, report: StepReport, lr: float) -> None:
        """After step number `step`: nothing, or a line of metrics. Losses are of this one step, at full precision."""
        if step % self._job.settings.watch.every and step != self._job.total_steps:
            return
        wait_share, step_s = self._lap(step)
        numbers = {"train/loss": report.loss, **report.metrics, "perf/data_wait_share": torch.tensor(wait_share)}
        local = torch.stack([value.detach().double().cpu() for value in numbers.values()])
        self.latest = dict(zip(numbers, world.mean_over_ranks(local).tolist(), strict=True)) | {
            "train/lr": lr,
            "train/grad_norm": report.grad_norm,
            "train/refused": float(step - self._strategy.updates),
            "train/epoch": step / self._job.loader.steps_per_epoch,
            "perf/step_s": step_s,
            "perf/samples_per_s": self._job.settings.train.global_batch / step_s,
        }
        self.latest |= self._teachers()
        if self._job.loader.quarantine is not None:
            replaced = torch.tensor(self._job.loader.num_replaced)
            self.latest["data/replaced"] = float(world.sum_over_ranks(replaced))
        self._sinks.write(step, self.latest)
        self._progress.update(
            step,
            self.latest["train/loss"],
            self.latest["perf/samples_per_s"],
            min(1.0, self.latest["perf/data_wait_share"]),
        )

    def _teachers(self) -> dict[str, float]:
        """How far teachers are from their students, and how slowly they follow; nothing where there are none."""
        momentum, drift = self._job.objective.momentum, self._strategy.teacher_drift()
        return {} if momentum is None or drift is None else {"train/momentum": momentum, "health/teacher_drift": drift}

    def _lap(self, step: int) -> tuple[float, float]:
        """Share of the time waited for data, and seconds a step, since the last line."""
        now, waited = time.perf_counter(), self._job.loader.wait_s
        elapsed, steps = max(now - self._time, 1e-9), step - self._step
        share = (waited - self._waited) / elapsed
        self._step, self._time, self._waited = step, now, waited
        return share, elapsed / steps

    def totals(self, step: int) -> dict[str, float]:
        """Seconds and samples a second of this process's whole part of the run, checkpoints included."""
        elapsed = time.perf_counter() - self._began
        samples = (step - self._first_step) * self._job.settings.train.global_batch
        return {"seconds": elapsed, "samples_per_s": samples / elapsed}


class SaveClock:
    """When the next checkpoint is due: by steps, by minutes, or both."""

    def __init__(self, steps: int | None, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._minutes, self._clock = steps, minutes, clock
        self._since = clock()

    def is_due(self, step: int) -> bool:
        """After step number `step`. By minutes it is this machine's clock: the first rank's word counts for all."""
        by_steps = self._steps is not None and step % self._steps == 0
        by_time = self._minutes is not None and self._clock() - self._since >= 60.0 * self._minutes
        return by_steps or by_time

    def restart(self) -> None:
        """A checkpoint has been written."""
        self._since = self._clock()
