import csv
import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from gloo import run_ranks
from processes import start

from engine.actives import GROUPS, Unlabelled, fill, loop, run, state, write_config
from engine.finetunes import Coloured
from rspretrain.config import ConfigError
from rspretrain.engine.rounds import Rounds
from rspretrain.shardset.index import open_shards

SMALL = "budget={val: 4, test: 4, first: 4, per_round: 2, rounds: 1}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A configuration and the folder of its uninterrupted loop."""
    path = write_config(tmp_path_factory.mktemp("active"))
    status, lines = run(path)
    assert (status.complete, status.rounds, status.tables, status.is_stopped) == (3, 3, (), False)
    assert lines == ["Round 0 of 2: 4 labels.", "Round 1 of 2: 6 labels.", "Round 2 of 2: 8 labels."]
    return path, path.parent / "run"


def test_each_round_trains_tests_and_requests_images_of_the_pool(whole):
    path, folder = whole
    pool, summary = (json.loads((folder / name).read_text()) for name in ("pool.json", "active.json"))
    assert [len(answers) for answers in pool["rounds"]] == [4, 2, 2]
    assert not pool["pending"]
    labels = {key: names for answers in pool["rounds"] for key, names in answers.items()}
    assert len(labels) == 8
    assert labels.keys() <= set(pool["split"]["pool"])
    assert not labels.keys() & {*pool["split"]["val"], *pool["split"]["test"]}
    shards = open_shards(path.parent / "shards")
    assert all(tuple(names) == tuple(shards[key].labels["all"]) for key, names in labels.items())
    assert [(point["round"], point["labels"]) for point in summary["rounds"]] == [(0, 4), (1, 6), (2, 8)]
    lines = list(csv.DictReader((folder / "active.csv").read_text().splitlines()))
    for number, (point, line) in enumerate(zip(summary["rounds"], lines, strict=True)):
        found = json.loads((folder / f"rounds/{number:02d}/results.json").read_text())
        assert point["f1_macro"] == found["test"]["f1_macro"] == float(line["f1_macro"])
        assert (found["n_train"], found["n_val"], found["n_test"]) == (4 + 2 * number, 6, 12)
    assert summary["mean_after_queries"]["f1_micro"] == np.mean([p["f1_micro"] for p in summary["rounds"][1:]])
    assert (folder / "active.png").read_bytes()[:4] == b"\x89PNG"


def test_only_the_newest_round_keeps_weights(whole):
    _, folder = whole
    assert sorted(str(one.relative_to(folder)) for one in folder.glob("rounds/*/export/*")) == [
        "rounds/02/export/classifier"
    ]
    assert [one.parts[-3] for one in folder.glob("rounds/*/checkpoints/step_*")] == ["02"]


def disturbed(path, folder, resume):
    """Runs in a separate process that is killed at a random moment."""
    run(path, f"run.dir={folder}", "train.checkpoint_every=1", resume=resume)


def test_a_loop_killed_at_random_moments_ends_as_an_uninterrupted_one(whole, tmp_path):
    path, undisturbed = whole
    folder, rng, kills = tmp_path / "run", np.random.default_rng(), 0
    for delay in rng.uniform(0.1, 1.2, size=4):
        process = start(disturbed, path, folder, kills > 0)
        deadline = time.monotonic() + 60
        while process.is_alive() and not (folder / "pool.json").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.join(delay)
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills
    status, _ = run(path, f"run.dir={folder}", "train.checkpoint_every=1", resume=True)
    assert status.complete == 3
    assert state(folder) == state(undisturbed)


class Killed(BaseException):
    """Ends the loop as a kill would."""


@pytest.mark.parametrize("method_name", ["request", "prune", "report"])
def test_a_loop_killed_between_two_rounds_ends_as_an_uninterrupted_one(whole, tmp_path, method_name, monkeypatch):
    path, undisturbed = whole
    owner = Rounds if method_name in ("prune", "report") else type(loop(path).pool)
    method, calls = getattr(owner, method_name), []

    def dies(self, *args):
        calls.append(method_name)
        if len(calls) == 2:
            raise Killed
        return method(self, *args)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(owner, method_name, dies)
        run(path, f"run.dir={tmp_path}/run")
    run(path, f"run.dir={tmp_path}/run", resume=True)
    assert state(tmp_path / "run") == state(undisturbed)


def test_a_signal_between_rounds_stops_the_next_one(whole, tmp_path):
    path, undisturbed = whole

    def log(line):
        if line.startswith("Round 1"):  # before its first step
            os.kill(os.getpid(), signal.SIGTERM)

    status = loop(path, f"run.dir={tmp_path}/run").run(log)
    assert (status.complete, status.is_stopped) == (1, True)
    assert json.loads((tmp_path / "run/rounds/01/summary.json").read_text())["step"] == 1
    status, lines = run(path, f"run.dir={tmp_path}/run", resume=True)
    assert lines[:3] == [
        "Continuing after round 0 of 2.", "Round 1 of 2: 6 labels.",
        "Resuming after step 1 of 3 (written by single on 1 ranks).",
    ]  # fmt: skip
    assert state(tmp_path / "run") == state(undisturbed)


def on_a_rank(path, folder):
    status, _ = run(path, f"run.dir={folder}")
    return status.complete


def test_two_ranks_request_the_same_images_as_one_process(whole, tmp_path):
    path, alone = whole
    assert run_ranks(2, on_a_rank, path, tmp_path / "run") == [3, 3]
    one, two = state(alone), state(tmp_path / "run")
    assert one["pool"] == two["pool"]
    for ours, theirs in zip(one["rounds"], two["rounds"], strict=True):
        assert theirs["f1_macro"] == pytest.approx(ours["f1_macro"], abs=1e-5)


@pytest.mark.parametrize("query", ["random", "coreset"])
def test_other_query_functions_with_single_label_images(whole, query):
    path, _ = whole
    active = loop(path, SMALL, f"query.name={query}", "labels.nomenclature=class", f"run.dir={path.parent}/{query}")
    assert active.run(lambda line: None).complete == 2
    summary = json.loads((path.parent / query / "active.json").read_text())
    assert (summary["query"], summary["multi"]) == (query, False)
    assert set(summary["mean_after_queries"]) == {"top1", "average_accuracy"}


def test_warm_start_continues_from_the_previous_round(whole, tmp_path):
    path, _ = whole
    almost_untrained = ("optim.lr=1e-12", "train.epochs=1", SMALL)
    first = loop(path, *almost_untrained)._job(0, pending=True).objective.state_dict()
    for warm in (True, False):
        active = loop(path, *almost_untrained, f"warm_start={str(warm).lower()}", f"run.dir={tmp_path}/{warm}")
        active.run(lambda line: None)
        last = Rounds(tmp_path / str(warm)).weights(1)
        assert all(torch.allclose(last[name], value, atol=1e-6) for name, value in first.items()) == warm


@pytest.fixture(scope="module")
def small(whole, tmp_path_factory):
    """The folder of a shorter loop with the shard set's labels."""
    folder = tmp_path_factory.mktemp("small")
    run(whole[0], SMALL, f"run.dir={folder}/run")
    return folder / "run"


def test_labels_entered_by_hand_give_the_result_of_the_table_oracle(whole, small, tmp_path):
    path, _ = whole
    by_hand, shards = (SMALL, "oracle=csv", f"run.dir={tmp_path}/run"), path.parent / "shards"
    for number in range(2):
        status, _ = run(path, *by_hand, resume=number > 0)
        (table,) = status.tables
        assert (status.complete, table) == (number, tmp_path / f"run/to_label/round_{number:02d}/labels.csv")
        again, _ = run(path, *by_hand, resume=True)  # the CSV is not filled in yet
        assert again == status
        fill(table, shards)
    status, _ = run(path, *by_hand, resume=True)
    assert (status.complete, status.tables) == (2, ())
    assert state(tmp_path / "run") == state(small)


def test_a_csv_with_faults_changes_no_file(whole, tmp_path):
    path, _ = whole
    by_hand, shards = (SMALL, "oracle=csv", f"run.dir={tmp_path}/run"), path.parent / "shards"
    (table,) = run(path, *by_hand)[0].tables
    empty = table.read_bytes()
    known, unknown, *_ = [line.split(",")[0] for line in table.read_text("utf-8-sig").splitlines()[1:]]
    fill(table, shards, but={known: None, unknown: "forrest"})
    before = {one: one.read_bytes() for one in (tmp_path / "run").rglob("*") if one.is_file()}
    with pytest.raises(ConfigError, match=r"labels.csv has 2 faults:") as error:
        run(path, *by_hand, resume=True)
    assert f"({unknown}): unknown label 'forrest' (nearest: forest)" in str(error.value)
    assert f"no row has the key '{known}'" in str(error.value)
    assert "Correct the file and continue" in str(error.value)
    assert {one: one.read_bytes() for one in before} == before
    table.write_bytes(empty)
    fill(table, shards)
    status, _ = run(path, *by_hand, resume=True)
    assert (status.complete, status.tables[0].parent.name) == (1, "round_01")


def test_a_shard_set_without_labels(whole, small, tmp_path):
    """Held-out images are requested with the first ones; the result equals that of a labelled shard set."""
    labelled, _ = whole
    path = write_config(tmp_path, Unlabelled(samples=60, groups=GROUPS))
    people = (SMALL, "oracle.name=csv", "oracle.classes=[field, forest, water]", "labels.nomenclature=null")
    assert (
        "4 for validation, 4 for the test; 8 of them have no labels, which will be requested"
        in loop(path, *people).plan
    )
    held_out, first = run(path, *people)[0].tables
    assert held_out == tmp_path / "run/to_label/held_out/round_00/labels.csv"
    fill(first, labelled.parent / "shards")
    assert run(path, *people, resume=True)[0].tables == (held_out,)
    fill(held_out, labelled.parent / "shards")
    (second,) = run(path, *people, resume=True)[0].tables
    fill(second, labelled.parent / "shards")
    assert run(path, *people, resume=True)[0].complete == 2
    assert state(tmp_path / "run") == state(small)


def test_splits_of_the_archive(whole):
    path, _ = whole
    active = loop(path, SMALL, "labels.train_split=train", "labels.test_split=test", "data.filter=country == 'Finland'")
    rows = {name: set(active.task.shards.keys(active.task.shards.select(name))) for name in ("train", "test")}
    split = active.pool.split
    assert set(split.test) <= rows["test"]
    assert {*split.val, *split.pool} <= rows["train"]
    assert (len(split.test), len(split.val), len(split.pool)) == (4, 4, 20)  # 24 of 48 are of Finland


def test_removed_images_and_absent_classes_are_reported(whole, tmp_path):
    path, _ = whole
    scenario = (
        "{val: 4, test: 4, first: 4, per_round: 2, rounds: 0, scenario: 2, minority: [field, water], num_reduced: 1}"
    )
    _, said = run(path, f"budget={scenario}", f"run.dir={tmp_path}/a", "labels.nomenclature=class")
    assert len(said) == 3
    assert said[0].startswith("Scenario 2: removed 1")
    assert "fewer than the scenario requires" in said[0]
    assert said[1].startswith("No image of the pool has '")
    assert said[1].endswith("'; the model cannot learn these classes.")
    one_class = write_config(tmp_path, Coloured(samples=60, groups=GROUPS))
    _, said = run(one_class, SMALL, "data.filter='water' in labels_class", "labels.nomenclature=class")
    assert said[0] == "No image of the pool has 'field', 'forest'; the model cannot learn these classes."


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("budget.rounds=20",), r"A budget of 44 labels \(4 and 20 rounds of 2\) got a pool of 42 .* Lower"),
        (("budget.test=60",), r"got 60 images; expected at least 67. Lower budget.val"),
        (("budget.test=0",), r"budget.test: got 0, expected at least 1: each round .* Set the number of test"),
        (("labels.fraction=0.1",), r"labels: got \{'fraction': 0.1\} in a label-budget loop, .* Set budget.first"),
        (("labels.nomenclature=other",), r"has no nomenclature 'other'; its nomenclatures are \['all', 'class'\]"),
        (("budget.scenario=3",), r"Scenario 3 got the minority classes \['airplane', .* Set budget.minority"),
        (("oracle.classes=[a, b]",), r"oracle.classes: got \['a', 'b'\] for the oracle 'table', .* Remove oracle.cl"),
        (("oracle={name: csv, classes: [a;b, c]}",), r"The CSV oracle got the classes \['a;b'\]; .* Rename them"),
        (("labels.train_split=val",), r"has no split 'val'; its splits are"),
        (("labels.test_split=test", "budget.val=48"), r"splits have 0 images for budget.pool 1; .* Lower them"),
        (("sensors.s2.bands=[B02, B10]",), r"Bands \['B10'\] of sensor 's2' are not in the shard set"),
        (("data.split=train",), r"data.split: got 'train', expected none for fine-tuning"),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused_before_anything_is_written(whole, tmp_path, overrides, message):
    path, _ = whole
    with pytest.raises(ValueError, match=message):
        run(path, f"run.dir={tmp_path}/run", *overrides)
    assert not (tmp_path / "run").exists()


def test_a_shard_set_without_labels_requires_classes(tmp_path):
    path = write_config(tmp_path, Unlabelled(samples=60, groups=GROUPS))
    with pytest.raises(ValueError, match=r"has no labels and no classes, .* Set oracle.name=csv and oracle.cl"):
        loop(path, "labels.nomenclature=null")


def test_resuming_with_other_settings_is_refused(whole):
    path, folder = whole
    before = (folder / "pool.json").read_bytes()
    with pytest.raises(
        ConfigError, match=r"run.dir: .* is not empty, expected a new folder. Resume that run with --re"
    ):
        run(path)
    with pytest.raises(ConfigError, match=r"loop with budget.per_round 2, now 5; .* Undo the change"):
        run(path, "budget.per_round=5", resume=True)
    with pytest.raises(ConfigError, match=r"--resume: .*query.name was 'mge', now 'random'.*Resume with the saved"):
        run(path, "query.name=random", resume=True)
    assert (folder / "pool.json").read_bytes() == before
    assert run(path, resume=True)[0].complete == 3  # nothing is left to do
