from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.memory import CLASSES, memory_shards

from rspretrain.active_learning.budget import BudgetSettings
from rspretrain.active_learning.labelling_task import OWN_CLASSES, LabellingTask, open_labelling_task
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
    return memory_shards(tmp_path_factory.mktemp("task") / "shards", samples=40)


def without(task: LabellingTask, rows: np.ndarray) -> LabellingTask:
    """The same task without the labels of these samples."""
    known = task.known.copy()
    known[rows] = False
    return replace(task, known=known)


def started(task: LabellingTask, oracle: OracleSettings = TABLE) -> LabelPool:
    return task.start(ALL, BUDGET, oracle, None)


def test_classes_come_from_the_shard_set_or_the_settings(shards: ShardSet) -> None:
    ours = open_labelling_task(shards, ALL, TABLE)
    assert (ours.nomenclature, ours.classes) == ("all", Nomenclature(CLASSES, True))
    assert open_labelling_task(shards, LabelSettings(), TABLE).nomenclature == "class"
    own = open_labelling_task(shards, ALL, OracleSettings(name="csv", classes=("x", "y"), multi=False))
    assert (own.nomenclature, own.classes) == (OWN_CLASSES, Nomenclature(("x", "y"), False))
    assert own.known.shape == (40, 2)
    assert not own.known.any()


def test_a_round_uses_only_obtained_and_held_out_labels(shards: ShardSet) -> None:
    task = open_labelling_task(shards, ALL, TABLE)
    pool = started(task)
    first = pool.pending
    asked = task.finetune_data(pool, {}, balanced=False, pending=True)
    assert sorted(shards.keys(asked.train)) == sorted(first)
    assert not asked.targets(shards)[asked.train].any()
    pool = pool.answer(dict.fromkeys(first, ("water",)))  # not the labels of the shard set
    data = task.finetune_data(pool, {}, balanced=False)
    hot = data.targets(shards)
    assert (hot[data.train] == [False, False, True]).all()
    held_out = np.concatenate([data.val, data.test])
    assert (hot[held_out] == shards.labels("all")[held_out]).all()
    assert not np.delete(hot, np.concatenate([held_out, data.train]), axis=0).any()
    assert data.epoch_rows is data.train
    for rows in (data.train, data.val, data.test):
        assert (np.diff(rows) > 0).all()


def test_balanced_epochs_repeat_rare_classes(shards: ShardSet) -> None:
    task = open_labelling_task(shards, ALL, TABLE)
    pool = started(task)
    rare, *others = pool.pending
    pool = pool.answer({rare: ("field",)} | dict.fromkeys(others, ("water",)))
    epoch = shards.keys(task.finetune_data(pool, {}, balanced=True).epoch_rows)
    assert {key: epoch.count(key) for key in pool.labels} == {rare: 3} | dict.fromkeys(others, 1)


def test_the_table_oracle_excludes_unlabelled_images(shards: ShardSet) -> None:
    task = without(open_labelling_task(shards, ALL, TABLE), np.arange(20))
    pool = started(task)
    everyone = (*pool.split.val, *pool.split.test, *pool.split.pool)
    assert set(everyone) == set(shards.keys(np.arange(20, 40)))
    with pytest.raises(ValueError, match=r"has no image with labels of 'all' .* label by hand"):
        started(without(task, np.arange(40)))


def test_only_held_out_images_without_labels_are_requested(shards: ShardSet) -> None:
    whole = open_labelling_task(shards, ALL, PEOPLE)
    assert started(whole, PEOPLE) == started(whole)
    some = without(whole, np.arange(30))  # ten have labels, and ten are held out
    pool = started(some, PEOPLE)
    assert {*pool.split.val, *pool.split.test} == set(shards.keys(np.arange(30, 40)))
    assert len(pool.split.pool) == 30
    assert some.unlabelled_held_out(pool) == ()
    few = without(whole, np.arange(33))
    pool = started(few, PEOPLE)
    unknown = few.unlabelled_held_out(pool)
    assert len(unknown) == 3
    data = few.finetune_data(pool, dict.fromkeys(unknown, ("forest",)), balanced=False, pending=True)
    rows = [shards.row_of_key[key] for key in unknown]
    assert (data.targets(shards)[rows] == [False, True, False]).all()


def test_absent_classes_are_those_without_an_image_in_the_pool(shards: ShardSet) -> None:
    task = open_labelling_task(shards, ALL, TABLE)
    pool = started(task)
    assert task.absent_classes(pool) == ()
    assert without(task, np.flatnonzero(task.known[:, 1])).absent_classes(pool) == ("forest",)
    assert without(task, np.arange(40)).absent_classes(pool) == ()  # without any known label, no class counts as absent


def test_the_settings_choose_the_oracle(shards: ShardSet, tmp_path: Path) -> None:
    task = open_labelling_task(shards, ALL, TABLE)
    assert isinstance(task.oracle(TABLE, tmp_path), TableOracle)
    people = task.oracle(PEOPLE, tmp_path)
    assert isinstance(people, CsvOracle)
    assert people.table(3) == tmp_path / "round_03/labels.csv"
