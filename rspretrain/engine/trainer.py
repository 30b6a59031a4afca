"""The one loop: batches in, steps taken, numbers out, checkpoints kept; from step 0 or from where a run stopped.

Everything random in step k is a function of (seed, k, rank) and of the samples, so the whole state of a run is its
weights, its optimizer and k.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from rspretrain import config, world
from rspretrain.batch import Batch
from rspretrain.engine.checkpoint import Checkpoints, RunState
from rspretrain.engine.job import Job, seed_torch
from rspretrain.engine.metric_logger import MetricLogger, SaveClock
from rspretrain.engine.run_dir import Ledger, batch_keys, claim_run_dir
from rspretrain.engine.stop_request import StopRequest
from rspretrain.files import write_json
from rspretrain.observe.progress import ProgressBar
from rspretrain.observe.sinks import Sinks
from rspretrain.strategies import build_strategy
from rspretrain.strategies.base import StepReport
from rspretrain.streaming.quarantine import replacement_report

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finish:
    """How a run came to its end."""

    step: int  # finished steps
    total_steps: int
    exports: dict[str, Path]  # name -> folder; empty where the run was stopped early
    stopped_early: bool = False  # the evaluator asked to stop before all steps were taken

    @property
    def is_complete(self) -> bool:
        """Whether the run came to its end; otherwise a signal asked to stop."""
        return self.stopped_early or self.step == self.total_steps


def train(job: Job, *, resume: bool, say: Say, stop: StopRequest | None = None) -> Finish:
    """Train to the end, or until a signal asks to stop; either way the last checkpoint is of the last step.

    `say` gets lines for the person who started the run, on the first rank only. `stop`: entered already, where the run
    is a part of something larger. ConfigError where run.dir is in use.
    RuntimeError where every checkpoint is damaged, or train.max_refused steps in a row were refused.
    """
    in_use = claim_run_dir(job.settings, job.world, resume)
    loop = Trainer(job, say if job.world.is_first else lambda line: None)
    step = loop.restore() if in_use else 0
    if resume and step == 0:
        loop.say(f"--resume: no checkpoint in {job.settings.run.dir}; starting from step 0.")
    with nullcontext(stop) if stop else StopRequest() as stop, loop.watched(step, in_use):
        return loop.run(step, stop)


class Trainer:
    """The objects that live as long as a run; the step is passed along."""

    def __init__(self, job: Job, say: Say) -> None:
        self.job, self.settings, self.say = job, job.settings, say
        self.run_dir = job.settings.run.dir
        self.strategy = build_strategy(
            job.settings.strategy, job.world, job.objective, job.settings.optim, job.objective.teachers()
        )
        self.checkpoints = Checkpoints(self.run_dir / "checkpoints", job.settings.train.keep)
        self.ledger: Ledger | None = None
        self.refused_in_a_row = 0

    def restore(self) -> int:
        """Load the newest whole checkpoint; the number of finished steps."""
        state = self.checkpoints.load_latest(self.strategy)
        if state is None:
            return 0
        sources = self.job.sources
        if state.shards_sha256 != sources.sha256:
            raise config.ConfigError(
                f"data.shards: {sources.name} has a manifest of SHA-256 {sources.sha256[:12]}…, expected "
                f"that of the run, {state.shards_sha256[:12]}…. Resume with the shard set that the run began with."
            )
        written = f"written by {state.strategy} on {state.world_size} ranks"
        self.say(f"Going on after step {state.step} of {self.job.total_steps} ({written}).")
        threads = torch.get_num_threads()
        if self.job.world.device.type == "cpu" and state.threads not in (0, threads):
            self.say(
                f"That was with {state.threads} threads a rank, now there are {threads}: sums are taken in another "
                "order, so the last bits will not be those of a run without a break. "
                f"OMP_NUM_THREADS={state.threads} gives them."
            )
        return state.step

    @contextmanager
    def watched(self, first_step: int, in_use: bool) -> Iterator[None]:
        """Open whatever the run writes to beside checkpoints; lines of steps after `first_step` are cut off."""
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
            self.metric_logger = MetricLogger(self.job, self.strategy, sinks, progress, first_step, self.say)
            yield

    def run(self, step: int, stop: StopRequest) -> Finish:
        """All steps after the first `step`, and the end of the run."""
        clock = SaveClock(self.settings.train.checkpoint_every, self.settings.train.checkpoint_minutes)
        batches = self.job.loader.batches(step)
        collapsed, reached = False, self._agree(self.job.evaluator.should_stop)[0]
        stopping = reached
        while step < self.job.total_steps and not stopping:
            self._take(step, next(batches))
            step += 1
            due, collapsed, reached, stopped = self._agree(
                clock.is_due(step) or self.job.evaluator.best_step == step,
                self._must_end(),
                self.job.evaluator.should_stop,
                stopped=stop.received is not None,
            )
            stopping = stopped or collapsed or reached
            if due or stopping or step == self.job.total_steps:
                self.save(step)
                clock.restart()
        batches.close()  # type: ignore[attr-defined]
        finish = self._finish(step, reached)
        if collapsed and not finish.is_complete:
            raise RuntimeError(
                f"The run was ended after step {step} because health.on_collapse is stop. "
                f"{self.metric_logger.verdict.text()} "
                f"{self.run_dir}/checkpoints has step {step} and what train.keep left of earlier ones; --resume with "
                "health.on_collapse=warn goes on all the same."
            )
        return finish

    def _must_end(self) -> bool:
        return self.settings.health.on_collapse == "stop" and self.metric_logger.verdict.level == 2

    def _take(self, step: int, batch: Batch) -> None:
        """The step after `step` finished ones, with all that is written about it."""
        lr = self.job.lr(step)
        seed_torch(self.settings.run.seed, step, self.job.world.rank)
        self.job.objective.prepare(self.job.progress(step))
        examined = self.job.evaluator.is_due(step + 1)
        self.job.objective.is_watched = self.metric_logger.is_due(step + 1) or examined
        report = self.strategy.train_step(batch, lr, self.job.objective.momentum, self.job.weight_decay(step))
        if self.settings.data.ledger:
            keys = batch_keys(batch, self.job.sources)
            if self.ledger is not None:
                self.ledger.write(step + 1, keys)
        found = self.job.evaluator.evaluate(step + 1, self.strategy.weights()) if examined else {}
        self.metric_logger.after(step + 1, batch, report, lr, found)
        self._count_refused(step + 1, batch, report)

    def _count_refused(self, step: int, batch: Batch, report: StepReport) -> None:
        self.refused_in_a_row = self.refused_in_a_row + 1 if report.refused else 0
        if self.refused_in_a_row < self.settings.train.max_refused:
            return
        path = self.run_dir / "refused_batch.json"
        keys = batch_keys(batch, self.job.sources)
        if self.job.world.is_first:
            write_json(path, {"step": step, "refused_in_a_row": self.refused_in_a_row, "keys": keys})
        raise RuntimeError(
            f"{self.refused_in_a_row} steps in a row had a loss or gradient that is not finite, the last of them step "
            f"{step}; no weight moved in them. {path} has the keys of that batch. Look at these samples, or lower "
            f"optim.lr, set optim.clip_norm, or use strategy.precision=fp32; then --resume."
        )

    def _agree(self, *questions: bool, stopped: bool = False) -> list[bool]:
        """The first rank's answers to `questions`; then whether any rank was asked to stop. One sum."""
        answers = [one and self.job.world.is_first for one in questions]
        votes = world.sum_over_ranks(torch.tensor([*answers, stopped], dtype=torch.int32))
        return [bool(vote) for vote in votes]

    def save(self, step: int) -> None:
        """A checkpoint after `step` finished steps."""
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

    def _finish(self, step: int, reached: bool) -> Finish:
        finish = Finish(step, self.job.total_steps, {}, reached)
        if finish.is_complete:
            exports = self.job.evaluator.finish(step, self.strategy.weights())
            finish = Finish(step, self.job.total_steps, exports, reached)
        quarantined = self._quarantined()
        if self.job.world.is_first:
            write_json(
                self.run_dir / "summary.json",
                {
                    "step": step,
                    "total_steps": self.job.total_steps,
                    "complete": finish.is_complete,
                    "refused": step - self.strategy.updates,
                    "exports": {sensor: str(path) for sensor, path in finish.exports.items()},
                    "quarantined": quarantined,
                    "health": self.metric_logger.verdict.summary(),
                    **self.metric_logger.totals(step),
                    "last": self.metric_logger.latest,
                },
            )
        return finish

    def _quarantined(self) -> list[dict[str, str]]:
        """The samples that any rank found damaged since this process started, and their replacements; collective."""
        if self.settings.data.on_corrupt != "quarantine":
            return []
        found = torch.zeros(len(self.job.sources), dtype=torch.int64)  # replacement row + 1; 0 if intact
        for row, replacement in self.job.loader.replacements.items():
            found[row] = replacement + 1
        found = world.max_over_ranks(found)
        damaged = {int(row): int(found[row]) - 1 for row in found.nonzero()}
        if damaged:
            self.say(f"Replaced {len(damaged)} damaged samples; summary.json lists them.")
        return replacement_report(self.job.sources, damaged)
