"""From steps to numbers: every `watch.every` steps, averaged over ranks, to the sinks and to the person who watches."""

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
    """Times the steps between two lines of metrics and writes the lines. All ranks call it together."""

    def __init__(
        self,
        job: Job,
        strategy: Strategy,
        sinks: Sinks,
        progress: ProgressBar,
        first_step: int,
        say: Callable[[str], None],
    ) -> None:
        self._job, self._strategy, self._sinks, self._progress = job, strategy, sinks, progress
        self._first_step, self._began = first_step, time.perf_counter()
        self._step, self._time = first_step, self._began
        self._waited, self._computed = job.loader.wait_s, job.loader.cpu_s
        self.latest: dict[str, float] = {}
        self._say, self._monitor = say, HealthMonitor(job.settings.health, sinks.lines)
        # Of the weights as they were initialised; a resumed run finds it by how far the last line says they had grown.
        grown = sinks.lines[-1].get("train/weight_growth", 1.0) if sinks.lines else 1.0
        self._initial_norm = strategy.weight_norm() / grown
        used = {name: sensor.bands for name, sensor in job.settings.sensors.items()}
        groups = [job.sources.groups[name] for name in job.objective.groups]
        statistics = {group.name: job.sources.statistics(group.name) for group in groups}
        self._input_health = lambda batch: input_health(batch, groups, used, statistics)

    @property
    def verdict(self) -> Verdict:
        """What is to be said of the run; on the first rank, whose word counts, of all lines also after a restart."""
        return self._monitor.verdict

    def is_due(self, step: int) -> bool:
        """Whether there is a line of metrics after step number `step`.

        The first step has one: its forward is the untrained network's, which everything later is judged against. DINO
        at 30 times its rate has lost all that its targets say of samples within ten steps.
        """
        return step == 1 or step % self._job.settings.watch.every == 0 or step == self._job.total_steps

    def after(self, step: int, batch: Batch, report: StepReport, lr: float, found: Mapping[str, float] = {}) -> None:
        """After step number `step`: nothing, or a line of metrics. Losses are of this one step, at full precision.

        `found`: what was found out about the weights beside training; it always makes a line.
        """
        if not found and not self.is_due(step):
            return
        shares, step_s = self._lap(step)
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
        self.latest |= self._teachers() | self._data(step) | dict(found)
        self._judge(step)
        self._sinks.write(step, self.latest)
        self._progress.update(
            step,
            self.latest["train/loss"],
            self.latest["perf/samples_per_s"],
            min(1.0, self.latest["perf/data_wait_share"]),
        )

    def _judge(self, step: int) -> None:
        """The verdict into the line, and to the person where it changes."""
        before = self.verdict
        now = self._monitor.add({"step": step, **self.latest})
        self.latest["health/verdict"] = float(now.level)
        if now.causes != before.causes:
            self._say(now.text())

    def _teachers(self) -> dict[str, float]:
        """How far teachers are from their students, and how slowly they follow; nothing where there are none."""
        momentum, drift = self._job.objective.momentum, self._strategy.teacher_drift()
        return {} if momentum is None or drift is None else {"train/momentum": momentum, "health/teacher_drift": drift}

    def _data(self, step: int) -> dict[str, float]:
        """What was read so far: of every source of a mixture, and in place of damaged samples."""
        loader, told = self._job.loader, dict[str, float]()
        if len(self._job.sources.sets) > 1:
            told |= {f"data/{name}/samples": float(count) for name, count in loader.samples_seen(step).items()}
            told |= {f"data/{name}/epochs": epochs for name, epochs in loader.epochs_seen(step).items()}
        if self._job.settings.data.on_corrupt == "quarantine":
            told["data/replaced"] = float(world.sum_over_ranks(torch.tensor(loader.num_replaced)))
        return told

    def _lap(self, step: int) -> tuple[dict[str, Tensor], float]:
        """Shares of the time since the last line that this rank waited for data and its loader computed; s a step."""
        now, loader = time.perf_counter(), self._job.loader
        elapsed = max(now - self._time, 1e-9)
        shares = {
            "perf/data_wait_share": torch.tensor((loader.wait_s - self._waited) / elapsed),
            "perf/loader_cores": torch.tensor((loader.cpu_s - self._computed) / elapsed),
        }
        step_s = elapsed / (step - self._step)
        self._step, self._time, self._waited, self._computed = step, now, loader.wait_s, loader.cpu_s
        return shares, step_s

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
