"""A label-budget loop: fine-tune on what is labelled, test, choose the images to label next, get their labels, again.

    run.dir/config.yaml          settings of the loop
            pool.json            who is held out, labelled with what, or asked for: the state of the loop
            held_out.json        labels that people gave to held-out images which had none
            rounds/00 …          one ordinary fine-tuning run a round (engine/finetune.py), 00 on the first images
            to_label/round_00 …  what people are asked (downstream/oracle.py)
            active.json .csv .png    the learning curve so far, written anew after every round

The state changes in steps (asked, answered, round complete), each of which is one file that is there, whole, or is not.
So a loop that is killed anywhere goes on as if it had not been; inside a round that is the fine-tuning run's own doing.
The first rank alone reads and writes the state, the others take its word.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from rspretrain import world
from rspretrain.active_learning.imbalance import Labels
from rspretrain.active_learning.labelling_task import LabellingTask, open_labelling_task
from rspretrain.active_learning.oracle import CsvOracle
from rspretrain.active_learning.pool import LabelPool, rows_of
from rspretrain.active_learning.queries import choose
from rspretrain.active_learning.queries.candidates import candidates_of
from rspretrain.config import ActiveSettings, ConfigError
from rspretrain.engine.finetune import check_data, prepare_finetune
from rspretrain.engine.job import Job, describe
from rspretrain.engine.rounds import Rounds
from rspretrain.engine.run_dir import claim_run_dir
from rspretrain.engine.stop_request import StopRequest
from rspretrain.engine.trainer import Say, train
from rspretrain.evaluation.labels import LabelSettings
from rspretrain.evaluation.predict import predict_with_features
from rspretrain.files import write_json
from rspretrain.finetuning.supervised import Supervised
from rspretrain.streaming.sources import open_sources
from rspretrain.world import World

POOL, HELD_OUT, TO_LABEL = "pool.json", "held_out.json", "to_label"
_USED = ("nomenclature", "balanced", "train_split", "test_split")  # of the section `labels`


@dataclass(frozen=True)
class Standing:
    """How a call of a loop came to its end."""

    complete: int  # rounds that came to their end
    rounds: int  # of the whole budget, the one on the first images included
    tables: tuple[Path, ...] = ()  # that people have to fill in before it can go on
    is_stopped: bool = False  # by a signal


def prepare_active(settings: ActiveSettings, here: World, deepspeed_launcher: bool, resume: bool) -> "ActiveLearning":
    """Check everything that can be checked before anything is written. ValueError in one paragraph."""
    check_data(settings)
    _check_sections(settings)
    (shards,) = open_sources(settings.data).sets.values()
    campaign = open_labelling_task(shards, settings.labels, settings.oracle)
    path = settings.run.dir / POOL

    def state() -> str:
        if not (resume and path.exists()):
            sections = (settings.labels, settings.budget, settings.oracle)
            return campaign.start(*sections, settings.data.filter).model_dump_json()
        pool = LabelPool.load(path, settings.budget)
        rows_of(shards, (*pool.split.val, *pool.split.test, *pool.split.pool))  # ValueError for another shard set
        return pool.model_dump_json()

    pool = LabelPool.model_validate_json(_by_first(state))
    return ActiveLearning(settings, here, campaign, pool, deepspeed_launcher=deepspeed_launcher, resume=resume)


def _check_sections(settings: ActiveSettings) -> None:
    fields = LabelSettings.model_fields.items()
    given = {name: getattr(settings.labels, name) for name, _ in fields if name not in _USED}
    if unused := {name: given[name] for name, field in fields if name in given and given[name] != field.default}:
        raise ConfigError(
            f"labels: got {unused} in a label-budget loop, expected none of these: the section budget says which "
            "images are labelled and held out. Set budget.first, budget.val and budget.seed instead."
        )
    if not settings.budget.test:
        raise ConfigError(
            "budget.test: got 0, expected 1 at least: a round is worth what its test says. Set the number of test "
            "images; with oracle=csv people label those that have no labels."
        )


def _by_first(work: Callable[[], str]) -> str:
    """What `work` returns on the first rank, on all ranks; ConfigError on all where it raises ValueError there."""
    said = ""
    if world.rank() == 0:
        try:
            said = f"+{work()}"
        except ValueError as error:
            said = f"-{error}"
    said = world.from_first(said)
    if said.startswith("-"):
        raise ConfigError(said[1:])
    return said[1:]


@final
class ActiveLearning:
    """See the module. Made by `prepare_active`; all ranks call every method together."""

    def __init__(
        self,
        settings: ActiveSettings,
        here: World,
        campaign: LabellingTask,
        pool: LabelPool,
        *,
        deepspeed_launcher: bool,
        resume: bool,
    ) -> None:
        """ValueError for what a round would refuse later: networks, bands, batches, names of classes."""
        self.settings, self.world, self.campaign, self.pool = settings, here, campaign, pool
        self._deepspeed_launcher, self._resume = deepspeed_launcher, resume
        self._dir, self._rounds = settings.run.dir, Rounds(settings.run.dir)
        self._oracle = campaign.oracle(settings.oracle, self._dir / TO_LABEL)
        self.plan = f"{describe(self._job(0, pending=True))}\n{self._plan()}"

    def _plan(self) -> str:
        budget, pool, settings = self.settings.budget, self.pool, self.settings
        unknown, removed = len(self.campaign.unknown(pool)), sum(map(len, pool.removed.values()))
        asked = f"; {unknown:,} of them have no labels and will be asked for" if unknown else ""
        start = "warm" if settings.warm_start else "cold"
        facts = {
            "classes": f"{len(self.campaign.classes.names)} of {self.campaign.nomenclature!r}",
            "held out": f"{len(pool.split.val):,} for validation, {len(pool.split.test):,} for the test{asked}",
            "pool": f"{len(pool.split.pool):,} images; {removed:,} more left it in scenario {budget.scenario}",
            "labels": f"{budget.first:,}, then {budget.rounds} x {budget.per_round:,}; oracle {settings.oracle.name}",
            "query": f"{settings.query.name}, {start} start",
        }
        return "\n".join(["", "label budget", *(f"  {name:<28}{fact}" for name, fact in facts.items())])

    def run(self, say: Say) -> Standing:
        """To the end of the budget, until people are asked, or until a signal asks to stop.

        `say` gets lines for the person who started it. ConfigError where run.dir is in use, and for answers that need
        correction; nothing is lost then.
        """
        self._say: Say = say if self.world.is_first else lambda line: None
        claim_run_dir(self.settings, self.world, self._resume)
        self._keep(self.pool)
        self._tell_start()
        with StopRequest() as stop:
            while True:
                if tables := self._ask():
                    return self._standing(tables=tables)
                number = self.pool.round - 1
                if not self._train(number, stop):
                    return self._standing(is_stopped=True)
                if self.pool.is_spent:
                    return self._standing()
                if bool(world.max_over_ranks(torch.tensor(int(stop.received is not None)))):
                    return self._standing(is_stopped=True)
                self._keep(self.pool.asked(self._query(number)))

    def _standing(self, tables: tuple[Path, ...] = (), is_stopped: bool = False) -> Standing:
        return Standing(len(self._complete()), self.settings.budget.rounds + 1, tables, is_stopped)

    def _complete(self) -> list[int]:
        found: list[int] = json.loads(_by_first(lambda: json.dumps(self._rounds.complete())))
        return found

    def _keep(self, pool: LabelPool) -> None:
        self.pool = pool
        if self.world.is_first:
            pool.save(self._dir / POOL)
        world.barrier()

    def _tell_start(self) -> None:
        pool, budget = self.pool, self.settings.budget
        if complete := self._complete():
            self._say(f"Going on after round {complete[-1]} of {budget.rounds}.")
        for name, keys in pool.removed.items():
            lack = f", {pool.missing[name]} fewer than the scenario has" if pool.missing[name] else ""
            self._say(f"Scenario {budget.scenario}: {len(keys)} images left the pool for {name!r}{lack}.")
        if absent := self.campaign.absent(pool):
            self._say(f"No image of the pool has {', '.join(map(repr, absent))}; no label can teach that.")

    def _held_out(self) -> Labels | None:
        """What people answered for held-out images without labels; None where they have not yet."""
        if not self.campaign.unknown(self.pool):
            return {}
        path = self._dir / HELD_OUT
        answers: Labels | None = json.loads(
            _by_first(lambda: path.read_text() if self._resume and path.exists() else "null")
        )
        return answers

    def _ask(self) -> tuple[Path, ...]:
        """Get the labels of pending images; the tables that people have not filled in yet."""
        unknown = self.campaign.unknown(self.pool) if self._held_out() is None else ()
        if not self.pool.pending and not unknown:
            return ()
        said = json.loads(_by_first(lambda: json.dumps(self._answers(unknown))))
        if not said["tables"] and self.pool.pending:
            self._keep(self.pool.answered(said["labels"]))
        return tuple(map(Path, said["tables"]))

    def _answers(self, unknown: tuple[str, ...]) -> dict[str, Any]:
        """On the first rank. Answers for held-out images are kept at once."""
        tables, number, labels = [], self.pool.round, None
        if unknown:
            people = CsvOracle(self._dir / TO_LABEL / "held_out", self.campaign.shards, self.campaign.classes)
            answers = people.answer(unknown, 0)
            if answers is None:
                tables.append(str(people.table(0)))
            else:
                write_json(self._dir / HELD_OUT, answers, indent=None)
        if self.pool.pending:
            labels = self._oracle.answer(self.pool.pending, number)
            if labels is None:
                assert isinstance(self._oracle, CsvOracle), "a table answers at once"
                tables.append(str(self._oracle.table(number)))
        return {"tables": tables, "labels": labels}

    def _train(self, number: int, stop: StopRequest) -> bool:
        """Bring a round to its end, unless it has come to it; False where a signal stopped it."""
        if number not in self._complete():
            begun = json.loads(_by_first(lambda: json.dumps(self._rounds.has_begun(number))))
            self._say(f"Round {number} of {self.settings.budget.rounds}: {len(self.pool.labels)} labels.")
            warm = self._rounds.weights(number - 1) if self.settings.warm_start and number else None
            finish = train(self._job(number, warm), resume=begun, say=self._say, stop=stop)
            if not finish.is_complete:
                return False
        if self.world.is_first:
            self._rounds.prune(number)
            self._rounds.report(self.settings, self.campaign, self.pool)
        world.barrier()
        return True

    def _job(self, number: int, initial: Mapping[str, Tensor] | None = None, *, pending: bool = False) -> Job:
        """The fine-tuning run of a round, on weights of another. `pending`: on unanswered images, too, for a look."""
        balanced = self.settings.labels.balanced
        data = self.campaign.data(self.pool, self._held_out() or {}, balanced=balanced, pending=pending)
        return prepare_finetune(self.settings.of_round(number), self.world, self._deepspeed_launcher, data, initial)

    def _query(self, number: int) -> list[str]:
        """Keys of the images to label next, as the weights of round `number` see the pool."""
        settings, job = self.settings, self._job(number, self._rounds.weights(number))
        network = job.objective
        assert isinstance(network, Supervised)
        shards, multi = self.campaign.shards, self.campaign.classes.multi
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
