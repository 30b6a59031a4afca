from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.memory import CLASSES, memory_shards

from rspretrain.active_learning.budget import BudgetSettings
from rspretrain.active_learning.labelling_task import OWN, LabellingTask, open_labelling_task
from rspretrain.active_learning.oracle import CsvOracle, OracleSettings, TableOracle
from rspretrain.active_learning.pool import LabelPool
from rspretrain.archives.base import Nomenclature
from rspretrain.evaluation.labels import LabelSettings
from rspretrain.shardset.index import ShardSet

BUDGET = BudgetSettings(val=4, test=6, first=4, per_round=2, rounds=1)
TABLE, PEOPLE = OracleSettings(), OracleSettings(name="csv")
ALL = LabelSettings(nomenclature="all")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("campaign") / "shards", samples=40)


def without(campaign: LabellingTask, rows: np.ndarray) -> LabellingTask:
    """The same, but nobody knows what these samples are."""
    known = campaign.known.copy()
    known[rows] = False
    return replace(campaign, known=known)


def started(campaign: LabellingTask, oracle: OracleSettings = TABLE) -> LabelPool:
    return campaign.start(ALL, BUDGET, oracle, None)


def test_classes_come_from_the_set_or_from_the_settings(shards: ShardSet) -> None:
    ours = open_labelling_task(shards, ALL, TABLE)
    assert (ours.nomenclature, ours.classes) == ("all", Nomenclature(CLASSES, True))
    assert open_labelling_task(shards, LabelSettings(), TABLE).nomenclature == "class"
    own = open_labelling_task(shards, ALL, OracleSettings(name="csv", classes=("x", "y"), multi=False))
    assert (own.nomenclature, own.classes) == (OWN, Nomenclature(("x", "y"), False))
    assert own.known.shape == (40, 2)
    assert not own.known.any()


def test_a_round_knows_nothing_but_answers_and_held_out_labels(shards: ShardSet) -> None:
    campaign = open_labelling_task(shards, ALL, TABLE)
    pool = started(campaign)
    first = pool.pending
    asked = campaign.data(pool, {}, balanced=False, pending=True)
    assert sorted(shards.keys(asked.train)) == sorted(first)
    assert not asked.targets(shards)[asked.train].any()
    pool = pool.answered(dict.fromkeys(first, ("water",)))  # whatever the set says
    data = campaign.data(pool, {}, balanced=False)
    hot = data.targets(shards)
    assert (hot[data.train] == [False, False, True]).all()
    held_out = np.concatenate([data.val, data.test])
    assert (hot[held_out] == shards.labels("all")[held_out]).all()
    assert not np.delete(hot, np.concatenate([held_out, data.train]), axis=0).any()
    assert data.epoch_rows is data.train
    for rows in (data.train, data.val, data.test):
        assert (np.diff(rows) > 0).all()


def test_balanced_draws(shards: ShardSet) -> None:
    campaign = open_labelling_task(shards, ALL, TABLE)
    pool = started(campaign)
    rare, *others = pool.pending
    pool = pool.answered({rare: ("field",)} | dict.fromkeys(others, ("water",)))
    epoch = shards.keys(campaign.data(pool, {}, balanced=True).epoch_rows)
    assert {key: epoch.count(key) for key in pool.labels} == {rare: 3} | dict.fromkeys(others, 1)


def test_the_table_leaves_out_what_it_does_not_know(shards: ShardSet) -> None:
    campaign = without(open_labelling_task(shards, ALL, TABLE), np.arange(20))
    pool = started(campaign)
    everyone = (*pool.split.val, *pool.split.test, *pool.split.pool)
    assert set(everyone) == set(shards.keys(np.arange(20, 40)))
    with pytest.raises(ValueError, match=r"The pool of .* got no image with labels of 'all' .* let people label"):
        started(without(campaign, np.arange(40)))


def test_people_are_asked_for_held_out_images_only_where_labels_are_lacking(shards: ShardSet) -> None:
    whole = open_labelling_task(shards, ALL, PEOPLE)
    assert started(whole, PEOPLE) == started(whole)
    some = without(whole, np.arange(30))  # ten are known, and ten are held out
    pool = started(some, PEOPLE)
    assert {*pool.split.val, *pool.split.test} == set(shards.keys(np.arange(30, 40)))
    assert len(pool.split.pool) == 30
    assert some.unknown(pool) == ()
    few = without(whole, np.arange(33))
    pool = started(few, PEOPLE)
    unknown = few.unknown(pool)
    assert len(unknown) == 3
    data = few.data(pool, dict.fromkeys(unknown, ("forest",)), balanced=False, pending=True)
    rows = [shards.row_of_key[key] for key in unknown]
    assert (data.targets(shards)[rows] == [False, True, False]).all()


def test_classes_that_the_pool_lacks(shards: ShardSet) -> None:
    campaign = open_labelling_task(shards, ALL, TABLE)
    pool = started(campaign)
    assert campaign.absent(pool) == ()
    assert without(campaign, np.flatnonzero(campaign.known[:, 1])).absent(pool) == ("forest",)
    assert without(campaign, np.arange(40)).absent(pool) == ()  # nothing is known, so nothing is lacking


def test_who_answers(shards: ShardSet, tmp_path: Path) -> None:
    campaign = open_labelling_task(shards, ALL, TABLE)
    assert isinstance(campaign.oracle(TABLE, tmp_path), TableOracle)
    people = campaign.oracle(PEOPLE, tmp_path)
    assert isinstance(people, CsvOracle)
    assert people.table(3) == tmp_path / "round_03/labels.csv"
