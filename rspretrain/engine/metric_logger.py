"""Writes a line of metrics every `watch.every` steps, averaged over ranks, and schedules checkpoints."""

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rspretrain import world
from rspretrain.batch import Batch
from rspretrain.engine.job import Job
from rspretrain.observe.input_health import input_health
from rspretrain.observe.progress import ProgressBar
from rspretrain.observe.sinks import Sinks
from rspretrain.observe.verdict import HealthMonitor, Verdict
from rspretrain.strategies.base import StepReport, Strategy


class MetricLogger:
    """Measures the time between metrics lines and writes the lines. Collective."""

    def __init__(
        self,
        job: Job,
        strategy: Strategy,
        sinks: Sinks,
        progress: ProgressBar,
        first_step: int,
        log: Callable[[str], None],
    ) -> None:
        self._job, self._strategy, self._sinks, self._progress = job, strategy, sinks, progress
        self._first_step, self._start_time = first_step, time.perf_counter()
        self._step, self._time = first_step, self._start_time
        self._wait_s, self._cpu_s = job.loader.wait_s, job.loader.cpu_s
        self.latest: dict[str, float] = {}
        self._log, self._monitor = log, HealthMonitor(job.settings.health, sinks.lines)
        # Norm of the initial weights. A resumed run computes it from the growth in the last metrics line.
        growth = sinks.lines[-1].get("train/weight_growth", 1.0) if sinks.lines else 1.0
        self._initial_norm = strategy.weight_norm() / growth
        used = {name: sensor.bands for name, sensor in job.settings.sensors.items()}
        groups = [job.sources.groups[name] for name in job.objective.groups]
        statistics = {group.name: job.sources.statistics(group.name) for group in groups}
        self._input_health = lambda batch: input_health(batch, groups, used, statistics)

    @property
    def verdict(self) -> Verdict:
        """The health verdict of all metrics lines, also after a restart. The first rank's value is used."""
        return self._monitor.verdict

    def is_due(self, step: int) -> bool:
        """Whether a metrics line is due after step `step`.

        It is due after the first step: its forward pass is that of the untrained network, the reference of the health
        checks. DINO with 30 times its learning rate collapses within ten steps.
        """
        return step == 1 or step % self._job.settings.watch.every == 0 or step == self._job.total_steps

    def log_step(
        self, step: int, batch: Batch, report: StepReport, lr: float, evaluation: Mapping[str, float] = {}
    ) -> None:
        """Write a metrics line after step `step` if it is due. Losses are those of this step, at full precision.

        `evaluation`: metrics of the evaluator; if there are any, a line is always written.
        """
        if not evaluation and not self.is_due(step):
            return
        shares, step_s = self._loader_shares(step)
        numbers = {"train/loss": report.loss, **report.metrics, **self._input_health(batch), **shares}
        local = torch.stack([value.detach().double().cpu() for value in numbers.values()])
        self.latest = dict(zip(numbers, world.mean_over_ranks(local).tolist(), strict=True)) | {
            "train/lr": lr,
            "train/grad_norm": report.grad_norm,
            "train/weight_growth": self._strategy.weight_norm() / self._initial_norm,
            "train/refused": float(step - self._strategy.updates),
            "train/epoch": step / self._job.loader.steps_per_epoch,
            "perf/step_s": step_s,
            "perf/samples_per_s": self._job.settings.train.global_batch / step_s,
        }
        self.latest |= self._teacher_metrics() | self._data_metrics(step) | dict(evaluation)
        self._update_verdict(step)
        self._sinks.write(step, self.latest)
        self._progress.update(
            step,
            self.latest["train/loss"],
            self.latest["perf/samples_per_s"],
            min(1.0, self.latest["perf/data_wait_share"]),
        )

    def _update_verdict(self, step: int) -> None:
        """Add the verdict to the metrics line, and log it if it changes."""
        before = self.verdict
        now = self._monitor.add({"step": step, **self.latest})
        self.latest["health/verdict"] = float(now.level)
        if now.causes != before.causes:
            self._log(now.text())

    def _teacher_metrics(self) -> dict[str, float]:
        """EMA momentum and distance of the teachers to their students; empty without teachers."""
        momentum, drift = self._job.objective.momentum, self._strategy.teacher_drift()
        return {} if momentum is None or drift is None else {"train/momentum": momentum, "health/teacher_drift": drift}

    def _data_metrics(self, step: int) -> dict[str, float]:
        """Samples and epochs of each source of a mixture, and the number of replaced samples."""
        loader, metrics = self._job.loader, dict[str, float]()
        if len(self._job.sources.sets) > 1:
            metrics |= {f"data/{name}/samples": float(count) for name, count in loader.samples_seen(step).items()}
            metrics |= {f"data/{name}/epochs": epochs for name, epochs in loader.epochs_seen(step).items()}
        if self._job.settings.data.on_corrupt == "quarantine":
            metrics["data/replaced"] = float(world.sum_over_ranks(torch.tensor(loader.num_replaced)))
        return metrics

    def _loader_shares(self, step: int) -> tuple[dict[str, Tensor], float]:
        """Wait and CPU time of this rank's loader as shares of the time since the last line; seconds per step."""
        now, loader = time.perf_counter(), self._job.loader
        elapsed = max(now - self._time, 1e-9)
        shares = {
            "perf/data_wait_share": torch.tensor((loader.wait_s - self._wait_s) / elapsed),
            "perf/loader_cores": torch.tensor((loader.cpu_s - self._cpu_s) / elapsed),
        }
        step_s = elapsed / (step - self._step)
        self._step, self._time, self._wait_s, self._cpu_s = step, now, loader.wait_s, loader.cpu_s
        return shares, step_s

    def totals(self, step: int) -> dict[str, float]:
        """Seconds and samples per second since this process started training, checkpoints included."""
        elapsed = time.perf_counter() - self._start_time
        samples = (step - self._first_step) * self._job.settings.train.global_batch
        return {"seconds": elapsed, "samples_per_s": samples / elapsed}


class CheckpointTimer:
    """Determines when a checkpoint is due: every n steps, every n minutes, or both."""

    def __init__(self, steps: int | None, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._minutes, self._clock = steps, minutes, clock
        self._since = clock()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is due after step `step`. Clocks differ between machines: use the first rank's value."""
        by_steps = self._steps is not None and step % self._steps == 0
        by_time = self._minutes is not None and self._clock() - self._since >= 60.0 * self._minutes
        return by_steps or by_time

    def restart(self) -> None:
        """Restart the minutes, after a checkpoint."""
        self._since = self._clock()
