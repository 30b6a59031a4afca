"""The label-budget loop: fine-tune on the labelled images, test, query more images, obtain their labels, repeat.

    run.dir/config.yaml          settings of the loop
            pool.json            state of the loop: held-out, labelled and pending images
            held_out.json        labels entered by hand for held-out images that had none
            rounds/00 …          one fine-tuning run per round (engine/finetune.py); 00 uses the first images
            to_label/round_00 …  tables to fill in by hand (active_learning/oracle.py)
            active.json .csv .png    the learning curve, rewritten after every round

Each state change (images requested, labels received, round complete) is one atomically written file. So a loop that is
killed at any moment continues with the same result; within a round, the fine-tuning run resumes from its checkpoint.
Only the first rank reads and writes the state; the others receive it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from rspretrain.active_learning.budget import BudgetSettings, Labels
from rspretrain.active_learning.labelling_task import LabellingTask, open_labelling_task
from rspretrain.active_learning.oracle import CsvOracle
from rspretrain.active_learning.pool import LabelPool, rows_of
from rspretrain.active_learning.queries import choose
from rspretrain.active_learning.queries.candidates import candidates_of
from rspretrain.config import ActiveSettings, ConfigError
from rspretrain.engine.finetune import check_data, prepare_finetune
from rspretrain.engine.job import Job, describe, with_precision
from rspretrain.engine.rounds import Rounds
from rspretrain.engine.run_dir import open_run_dir
from rspretrain.engine.trainer import LogLine, StopRequest, train
from rspretrain.evaluation.labels import LabelSettings
from rspretrain.evaluation.predict import predict_with_features
from rspretrain.files import write_json
from rspretrain.finetuning.supervised import Supervised
from rspretrain.streaming.sources import open_sources
from rspretrain.world import World, barrier, broadcast_text, max_over_ranks, rank

POOL, HELD_OUT, TO_LABEL = "pool.json", "held_out.json", "to_label"
_USED_LABEL_SETTINGS = ("nomenclature", "balanced", "train_split", "test_split")


@dataclass(frozen=True)
class LoopStatus:
    """The state of a loop when `ActiveLearning.run` returns."""

    complete: int  # complete rounds
    rounds: int  # all rounds of the budget, round 0 included
    tables: tuple[Path, ...] = ()  # tables to fill in by hand before the loop can continue
    is_stopped: bool = False  # by a signal


def prepare_active(settings: ActiveSettings, world: World, deepspeed_launcher: bool, resume: bool) -> "ActiveLearning":
    """Build the loop and check the settings; nothing is written. ValueError, in one paragraph, for invalid settings."""
    check_data(settings.data)
    _check_sections(settings.labels, settings.budget)
    settings = with_precision(settings, world)
    (shards,) = open_sources(settings.data).sets.values()
    task = open_labelling_task(shards, settings.labels, settings.oracle)
    path = settings.run.dir / POOL

    def state() -> str:
        if not (resume and path.exists()):
            sections = (settings.labels, settings.budget, settings.oracle)
            return task.start(*sections, settings.data.filter).model_dump_json()
        pool = LabelPool.load(path, settings.budget)
        rows_of(shards, (*pool.split.val, *pool.split.test, *pool.split.pool))  # ValueError for another shard set
        return pool.model_dump_json()

    pool = LabelPool.model_validate_json(_from_first_rank(state))
    return ActiveLearning(settings, world, task, pool, deepspeed_launcher=deepspeed_launcher, resume=resume)


def _check_sections(labels: LabelSettings, budget: BudgetSettings) -> None:
    fields = LabelSettings.model_fields.items()
    given = {name: getattr(labels, name) for name, _ in fields if name not in _USED_LABEL_SETTINGS}
    if unused := {name: given[name] for name, field in fields if name in given and given[name] != field.default}:
        raise ConfigError(
            f"labels: got {unused} in a label-budget loop, expected none of these: the section budget defines the "
            "labelled and held-out images. Set budget.first, budget.val and budget.seed instead."
        )
    if not budget.test:
        raise ConfigError(
            "budget.test: got 0, expected at least 1: each round is evaluated on the test images. Set the number of "
            "test images; with oracle=csv, those without labels are labelled by hand."
        )


def _from_first_rank(work: Callable[[], str]) -> str:
    """Run `work` on the first rank and return its result on all ranks. Its ValueError becomes a ConfigError on all."""
    message = ""
    if rank() == 0:
        try:
            message = f"+{work()}"
        except ValueError as error:
            message = f"-{error}"
    message = broadcast_text(message)
    if message.startswith("-"):
        raise ConfigError(message[1:])
    return message[1:]


@final
class ActiveLearning:
    """A label-budget loop, made by `prepare_active`. All ranks call each method together."""

    def __init__(
        self,
        settings: ActiveSettings,
        world: World,
        task: LabellingTask,
        pool: LabelPool,
        *,
        deepspeed_launcher: bool,
        resume: bool,
    ) -> None:
        """ValueError for settings that a later round would reject: networks, bands, batches, class names."""
        self.settings, self.world, self.task, self.pool = settings, world, task, pool
        self._deepspeed_launcher, self._resume = deepspeed_launcher, resume
        self._dir, self._rounds = settings.run.dir, Rounds(settings.run.dir)
        self._oracle = task.oracle(settings.oracle, self._dir / TO_LABEL)
        self.plan = f"{describe(self._job(0, pending=True))}\n{self._plan()}"

    def _plan(self) -> str:
        budget, pool, settings = self.settings.budget, self.pool, self.settings
        unlabelled, removed = len(self.task.unlabelled_held_out(pool)), sum(map(len, pool.removed.values()))
        note = f"; {unlabelled:,} of them have no labels, which will be requested" if unlabelled else ""
        start = "warm" if settings.warm_start else "cold"
        facts = {
            "classes": f"{len(self.task.classes.names)} of {self.task.nomenclature!r}",
            "held out": f"{len(pool.split.val):,} for validation, {len(pool.split.test):,} for the test{note}",
            "pool": f"{len(pool.split.pool):,} images; {removed:,} more removed by scenario {budget.scenario}",
            "labels": f"{budget.first:,}, then {budget.rounds} x {budget.per_round:,}; oracle {settings.oracle.name}",
            "query": f"{settings.query.name}, {start} start",
        }
        return "\n".join(["", "label budget", *(f"  {name:<28}{fact}" for name, fact in facts.items())])

    def run(self, log: LogLine) -> LoopStatus:
        """Run until the budget is spent, labels have to be entered by hand, or a signal requests a stop.

        `log` receives log lines. ConfigError if run.dir is in use or entered labels need correction; no state is lost.
        """
        self._log: LogLine = log if self.world.is_first else lambda line: None
        open_run_dir(self.settings, self.world, self._resume)
        self._save(self.pool)
        self._log_start()
        with StopRequest() as stop:
            while True:
                if tables := self._label_pending():
                    return self._status(tables=tables)
                number = self.pool.round - 1
                if not self._train(number, stop):
                    return self._status(is_stopped=True)
                if self.pool.is_spent:
                    return self._status()
                if bool(max_over_ranks(torch.tensor(int(stop.received is not None)))):
                    return self._status(is_stopped=True)
                self._save(self.pool.request(self._query(number)))

    def _status(self, tables: tuple[Path, ...] = (), is_stopped: bool = False) -> LoopStatus:
        return LoopStatus(len(self._complete()), self.settings.budget.rounds + 1, tables, is_stopped)

    def _complete(self) -> list[int]:
        found: list[int] = json.loads(_from_first_rank(lambda: json.dumps(self._rounds.complete())))
        return found

    def _save(self, pool: LabelPool) -> None:
        self.pool = pool
        if self.world.is_first:
            pool.save(self._dir / POOL)
        barrier()

    def _log_start(self) -> None:
        pool, budget = self.pool, self.settings.budget
        if complete := self._complete():
            self._log(f"Continuing after round {complete[-1]} of {budget.rounds}.")
        for name, keys in pool.removed.items():
            lack = f", {pool.missing[name]} fewer than the scenario requires" if pool.missing[name] else ""
            self._log(f"Scenario {budget.scenario}: removed {len(keys)} images of {name!r} from the pool{lack}.")
        if absent := self.task.absent_classes(pool):
            self._log(f"No image of the pool has {', '.join(map(repr, absent))}; the model cannot learn these classes.")

    def _held_out(self) -> Labels | None:
        """Labels entered by hand for held-out images without labels; None if these are not complete yet."""
        if not self.task.unlabelled_held_out(self.pool):
            return {}
        path = self._dir / HELD_OUT
        answers: Labels | None = json.loads(
            _from_first_rank(lambda: path.read_text() if self._resume and path.exists() else "null")
        )
        return answers

    def _label_pending(self) -> tuple[Path, ...]:
        """Obtain the labels of pending images. Returns the tables that still have to be filled in by hand."""
        held_out = self.task.unlabelled_held_out(self.pool) if self._held_out() is None else ()
        if not self.pool.pending and not held_out:
            return ()
        found = json.loads(_from_first_rank(lambda: json.dumps(self._answers(held_out))))
        if not found["tables"] and self.pool.pending:
            self._save(self.pool.answer(found["labels"]))
        return tuple(map(Path, found["tables"]))

    def _answers(self, held_out: tuple[str, ...]) -> dict[str, Any]:
        """Labels of pending images and unfilled tables; first rank only. Saves labels of held-out images at once."""
        tables, number, labels = [], self.pool.round, None
        if held_out:
            oracle = CsvOracle(self._dir / TO_LABEL / "held_out", self.task.shards, self.task.classes)
            answers = oracle.answer(held_out, 0)
            if answers is None:
                tables.append(str(oracle.table(0)))
            else:
                write_json(self._dir / HELD_OUT, answers, indent=None)
        if self.pool.pending:
            labels = self._oracle.answer(self.pool.pending, number)
            if labels is None:
                assert isinstance(self._oracle, CsvOracle), "TableOracle always answers"
                tables.append(str(self._oracle.table(number)))
        return {"tables": tables, "labels": labels}

    def _train(self, number: int, stop: StopRequest) -> bool:
        """Complete a round if it is not complete; False if a signal stopped it."""
        if number not in self._complete():
            started = json.loads(_from_first_rank(lambda: json.dumps(self._rounds.has_started(number))))
            self._log(f"Round {number} of {self.settings.budget.rounds}: {len(self.pool.labels)} labels.")
            warm = self._rounds.weights(number - 1) if self.settings.warm_start and number else None
            result = train(self._job(number, warm), resume=started, log=self._log, stop=stop)
            if not result.is_complete:
                return False
        if self.world.is_first:
            self._rounds.prune(number)
            self._rounds.report(self.settings, self.task, self.pool)
        barrier()
        return True

    def _job(self, number: int, initial: Mapping[str, Tensor] | None = None, *, pending: bool = False) -> Job:
        """The fine-tuning job of a round, from `initial` weights. `pending`: include pending images (for --dry-run)."""
        balanced = self.settings.labels.balanced
        data = self.task.finetune_data(self.pool, self._held_out() or {}, balanced=balanced, pending=pending)
        return prepare_finetune(self.settings.of_round(number), self.world, self._deepspeed_launcher, data, initial)

    def _query(self, number: int) -> list[str]:
        """Keys of the images to label next, queried with the weights of round `number`."""
        settings, job = self.settings, self._job(number, self._rounds.weights(number))
        network = job.objective
        assert isinstance(network, Supervised)
        shards, multi = self.task.shards, self.task.classes.multi
        rows = rows_of(shards, self.pool.split.pool)
        rows.sort()
        probabilities, features = predict_with_features(
            network.classifier,
            network.views.sensor_inputs(),
            shards,
            rows,
            multi=multi,
            crop_px=settings.views.crop_px,
            device=self.world.device,
        )
        labelled = torch.isin(torch.from_numpy(rows), torch.from_numpy(rows_of(shards, tuple(self.pool.labels))))
        candidates = candidates_of(rows, features, probabilities, labelled.numpy(), multi=multi)
        return shards.keys(choose(settings.query, candidates, settings.budget.per_round, self.pool.query_seed))
