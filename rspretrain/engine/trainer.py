"""The training loop: steps, metrics, checkpoints, early stopping and signals, from step 0 or from a checkpoint.

All random numbers of step k are functions of (seed, k, rank) and of the samples, so the state of a run consists of its
weights, its optimizer state and k.
"""

import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import torch

from rspretrain import config, world
from rspretrain.batch import Batch
from rspretrain.engine.checkpoint import Checkpoints, RunState
from rspretrain.engine.job import Job, seed_torch
from rspretrain.engine.metric_logger import CheckpointTimer, MetricLogger
from rspretrain.engine.run_dir import Ledger, batch_keys, open_run_dir
from rspretrain.files import write_json
from rspretrain.observe.progress import ProgressBar
from rspretrain.observe.sinks import Sinks
from rspretrain.strategies import build_strategy
from rspretrain.strategies.base import StepReport
from rspretrain.streaming.quarantine import replacement_report

LogLine = Callable[[str], None]
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SLURM sends SIGUSR1 before the end of a job


class StopRequest:
    """Context manager that records SIGTERM and SIGUSR1, so that a run can save a checkpoint and stop between steps.

    Nested instances would replace each other's handlers: a caller of several runs enters one and passes it to all.
    """

    def __init__(self) -> None:
        self.received: str | None = None  # name of the signal

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number).name


@dataclass(frozen=True)
class TrainResult:
    """The end of a run: its last step and its exports."""

    step: int  # finished steps
    total_steps: int
    exports: dict[str, Path]  # name -> folder; empty if a signal stopped the run
    stopped_early: bool = False  # by the evaluator

    @property
    def is_complete(self) -> bool:
        """Whether the run is complete; otherwise a signal stopped it."""
        return self.stopped_early or self.step == self.total_steps


def train(job: Job, *, resume: bool, log: LogLine, stop: StopRequest | None = None) -> TrainResult:
    """Train to the end, or until a signal requests a stop. In both cases, the last step has a checkpoint.

    `log` receives log lines, on the first rank only. `stop`: an entered StopRequest, if the caller runs several jobs.
    ConfigError if run.dir is in use. RuntimeError if all checkpoints are damaged, or train.max_refused consecutive
    steps were refused.
    """
    in_use = open_run_dir(job.settings, job.world, resume)
    trainer = Trainer(job, log if job.world.is_first else lambda line: None)
    step = trainer.restore() if in_use else 0
    if resume and step == 0:
        trainer.log(f"--resume: no checkpoint in {job.settings.run.dir}; starting from step 0.")
    with nullcontext(stop) if stop else StopRequest() as stop, trainer.open_outputs(step, in_use):
        return trainer.run(step, stop)


class Trainer:
    """Runs the steps of a job. The current step is passed as an argument."""

    def __init__(self, job: Job, log: LogLine) -> None:
        self.job, self.settings, self.log = job, job.settings, log
        self.run_dir = job.settings.run.dir
        self.strategy = build_strategy(
            job.settings.strategy, job.world, job.objective, job.settings.optim, job.objective.teachers()
        )
        self.checkpoints = Checkpoints(self.run_dir / "checkpoints", job.settings.train.keep)
        self.ledger: Ledger | None = None
        self.consecutive_refused = 0

    def restore(self) -> int:
        """Load the newest intact checkpoint; returns the number of finished steps."""
        state = self.checkpoints.load_latest(self.strategy)
        if state is None:
            return 0
        sources = self.job.sources
        if state.shards_sha256 != sources.sha256:
            raise config.ConfigError(
                f"data.shards: the manifest of {sources.name} has SHA-256 {sources.sha256[:12]}…, expected "
                f"{state.shards_sha256[:12]}… as at the start of the run. Resume with the same shard set."
            )
        written = f"written by {state.strategy} on {state.world_size} ranks"
        self.log(f"Resuming after step {state.step} of {self.job.total_steps} ({written}).")
        threads = torch.get_num_threads()
        if self.job.world.device.type == "cpu" and state.threads not in (0, threads):
            self.log(
                f"The run used {state.threads} threads per rank, now {threads}: the order of sums changes, so results "
                "may differ in the last bits from a run without interruption. "
                f"Set OMP_NUM_THREADS={state.threads} for equal bits."
            )
        return state.step

    @contextmanager
    def open_outputs(self, first_step: int, in_use: bool) -> Iterator[None]:
        """Open metrics, ledger and progress bar; lines of steps after `first_step` are removed."""
        first, settings = self.job.world.is_first, self.settings
        with ExitStack() as stack:
            sinks = Sinks(
                self.run_dir, settings.watch, settings.model_dump(mode="json"), first, first_step if in_use else None
            )
            self.job.evaluator.restore(sinks.lines)
            stack.callback(lambda: sinks.close(dict(self.metric_logger.latest)))
            if settings.data.ledger and first:
                self.ledger = Ledger(self.run_dir / "ledger.jsonl", first_step)
                stack.callback(self.ledger.close)
            progress = ProgressBar(self.job.total_steps, first_step, first)
            stack.callback(progress.close)
            self.metric_logger = MetricLogger(self.job, self.strategy, sinks, progress, first_step, self.log)
            yield

    def run(self, step: int, stop: StopRequest) -> TrainResult:
        """Run all steps after `step` finished steps, then finish the run."""
        timer = CheckpointTimer(self.settings.train.checkpoint_every, self.settings.train.checkpoint_minutes)
        batches = self.job.loader.batches(step)
        collapsed, stop_early = False, self._agree(self.job.evaluator.should_stop)[0]
        stopping = stop_early
        while step < self.job.total_steps and not stopping:
            self._train_step(step, next(batches))
            step += 1
            save_due, collapsed, stop_early, signalled = self._agree(
                timer.is_due(step) or self.job.evaluator.best_step == step,
                self._stop_on_collapse(),
                self.job.evaluator.should_stop,
                signalled=stop.received is not None,
            )
            stopping = signalled or collapsed or stop_early
            if save_due or stopping or step == self.job.total_steps:
                self.save(step)
                timer.restart()
        batches.close()  # type: ignore[attr-defined]
        result = self._finish(step, stop_early)
        if collapsed and not result.is_complete:
            raise RuntimeError(
                f"The run was stopped after step {step}, because health.on_collapse=stop. "
                f"{self.metric_logger.verdict.text()} "
                f"{self.run_dir}/checkpoints has step {step} and the earlier steps that train.keep allows. To continue "
                "anyway, use --resume with health.on_collapse=warn."
            )
        return result

    def _stop_on_collapse(self) -> bool:
        return self.settings.health.on_collapse == "stop" and self.metric_logger.verdict.level == 2

    def _train_step(self, step: int, batch: Batch) -> None:
        """Run the step after `step` finished steps, evaluate if it is due, and write its metrics."""
        lr = self.job.lr(step)
        seed_torch(self.settings.run.seed, step, self.job.world.rank)
        self.job.objective.prepare(self.job.progress(step))
        evaluate = self.job.evaluator.is_due(step + 1)
        self.job.objective.compute_health = self.metric_logger.is_due(step + 1) or evaluate
        report = self.strategy.train_step(batch, lr, self.job.objective.momentum, self.job.weight_decay(step))
        if self.settings.data.ledger:
            keys = batch_keys(batch, self.job.sources)
            if self.ledger is not None:
                self.ledger.write(step + 1, keys)
        evaluation = self.job.evaluator.evaluate(step + 1, self.strategy.weights()) if evaluate else {}
        self.metric_logger.log_step(step + 1, batch, report, lr, evaluation)
        self._count_refused(step + 1, batch, report)

    def _count_refused(self, step: int, batch: Batch, report: StepReport) -> None:
        self.consecutive_refused = self.consecutive_refused + 1 if report.refused else 0
        if self.consecutive_refused < self.settings.train.max_refused:
            return
        path = self.run_dir / "refused_batch.json"
        keys = batch_keys(batch, self.job.sources)
        if self.job.world.is_first:
            write_json(path, {"step": step, "refused_in_a_row": self.consecutive_refused, "keys": keys})
        raise RuntimeError(
            f"{self.consecutive_refused} consecutive steps up to step {step} had a non-finite loss or gradient; they "
            f"did not change the weights. {path} has the keys of the last batch. Inspect these samples, lower "
            f"optim.lr, set optim.clip_norm, or use strategy.precision=fp32; then use --resume."
        )

    def _agree(self, *decisions: bool, signalled: bool = False) -> list[bool]:
        """The first rank's `decisions`, then whether any rank received a signal; equal on all ranks. One all-reduce."""
        own = [decision and self.job.world.is_first for decision in decisions]
        votes = world.sum_over_ranks(torch.tensor([*own, signalled], dtype=torch.int32))
        return [bool(vote) for vote in votes]

    def save(self, step: int) -> None:
        """Write a checkpoint after `step` finished steps."""
        settings = config.dump(self.settings).encode()
        state = RunState(
            step=step,
            updates=self.strategy.updates,
            samples=step * self.settings.train.global_batch,
            strategy=self.settings.strategy.name,
            world_size=self.job.world.size,
            config_sha256=hashlib.sha256(settings).hexdigest(),
            shards_sha256=self.job.sources.sha256,
            threads=torch.get_num_threads(),
        )
        self.checkpoints.save(self.strategy, state, self.job.evaluator.best_step)

    def _finish(self, step: int, stopped_early: bool) -> TrainResult:
        result = TrainResult(step, self.job.total_steps, {}, stopped_early)
        if result.is_complete:
            exports = self.job.evaluator.finish(step, self.strategy.weights())
            result = TrainResult(step, self.job.total_steps, exports, stopped_early)
        quarantined = self._quarantined()
        if self.job.world.is_first:
            write_json(
                self.run_dir / "summary.json",
                {
                    "step": step,
                    "total_steps": self.job.total_steps,
                    "complete": result.is_complete,
                    "refused": step - self.strategy.updates,
                    "exports": {sensor: str(path) for sensor, path in result.exports.items()},
                    "quarantined": quarantined,
                    "health": self.metric_logger.verdict.summary(),
                    **self.metric_logger.totals(step),
                    "last": self.metric_logger.latest,
                },
            )
        return result

    def _quarantined(self) -> list[dict[str, str]]:
        """The samples that any rank found damaged since this process started, and their replacements. Collective."""
        if self.settings.data.on_corrupt != "quarantine":
            return []
        found = torch.zeros(len(self.job.sources), dtype=torch.int64)  # replacement row + 1; 0 if intact
        for row, replacement in self.job.loader.replacements.items():
            found[row] = replacement + 1
        found = world.max_over_ranks(found)
        damaged = {int(row): int(found[row]) - 1 for row in found.nonzero()}
        if damaged:
            self.log(f"Replaced {len(damaged)} damaged samples; summary.json lists them.")
        return replacement_report(self.job.sources, damaged)
