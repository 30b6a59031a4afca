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
    """A configuration and the folder of its loop, which nothing disturbed."""
    path = write_config(tmp_path_factory.mktemp("active"))
    standing, said = run(path)
    assert (standing.complete, standing.rounds, standing.tables, standing.is_stopped) == (3, 3, (), False)
    assert said == ["Round 0 of 2: 4 labels.", "Round 1 of 2: 6 labels.", "Round 2 of 2: 8 labels."]
    return path, path.parent / "run"


def test_a_round_is_trained_tested_and_asks_for_images_of_the_pool(whole):
    path, folder = whole
    pool, told = (json.loads((folder / name).read_text()) for name in ("pool.json", "active.json"))
    assert [len(answers) for answers in pool["rounds"]] == [4, 2, 2]
    assert not pool["pending"]
    labels = {key: names for answers in pool["rounds"] for key, names in answers.items()}
    assert len(labels) == 8
    assert labels.keys() <= set(pool["split"]["pool"])
    assert not labels.keys() & {*pool["split"]["val"], *pool["split"]["test"]}
    shards = open_shards(path.parent / "shards")
    assert all(tuple(names) == tuple(shards[key].labels["all"]) for key, names in labels.items())
    assert [(point["round"], point["labels"]) for point in told["rounds"]] == [(0, 4), (1, 6), (2, 8)]
    lines = list(csv.DictReader((folder / "active.csv").read_text().splitlines()))
    for number, (point, line) in enumerate(zip(told["rounds"], lines, strict=True)):
        found = json.loads((folder / f"rounds/{number:02d}/results.json").read_text())
        assert point["f1_macro"] == found["test"]["f1_macro"] == float(line["f1_macro"])
        assert (found["n_train"], found["n_val"], found["n_test"]) == (4 + 2 * number, 6, 12)
    assert told["mean_after_queries"]["f1_micro"] == np.mean([p["f1_micro"] for p in told["rounds"][1:]])
    assert (folder / "active.png").read_bytes()[:4] == b"\x89PNG"


def test_only_the_newest_round_keeps_weights(whole):
    _, folder = whole
    assert sorted(str(one.relative_to(folder)) for one in folder.glob("rounds/*/export/*")) == [
        "rounds/02/export/classifier"
    ]
    assert [one.parts[-3] for one in folder.glob("rounds/*/checkpoints/step_*")] == ["02"]


def disturbed(path, folder, resume):
    """In a process of its own, which is killed at any moment."""
    run(path, f"run.dir={folder}", "train.checkpoint_every=1", resume=resume)


def test_a_loop_that_is_killed_at_any_moment_goes_on_as_if_it_had_not_been(whole, tmp_path):
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
    standing, _ = run(path, f"run.dir={folder}", "train.checkpoint_every=1", resume=True)
    assert standing.complete == 3
    assert state(folder) == state(undisturbed)


class Killed(BaseException):
    """Ends the loop where a kill would have."""


@pytest.mark.parametrize("place", ["asked", "prune", "report"])
def test_what_was_lost_between_two_rounds_is_found_again(whole, tmp_path, place, monkeypatch):
    path, undisturbed = whole
    owner = Rounds if place in ("prune", "report") else type(loop(path).pool)
    method, calls = getattr(owner, place), []

    def dies(self, *args):
        calls.append(place)
        if len(calls) == 2:
            raise Killed
        return method(self, *args)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(owner, place, dies)
        run(path, f"run.dir={tmp_path}/run")
    run(path, f"run.dir={tmp_path}/run", resume=True)
    assert state(tmp_path / "run") == state(undisturbed)


def test_a_signal_between_rounds_is_heard_in_the_next(whole, tmp_path):
    path, undisturbed = whole
    said = []

    def say(line):
        said.append(line)
        if line.startswith("Round 1"):  # before its first step
            os.kill(os.getpid(), signal.SIGTERM)

    standing = loop(path, f"run.dir={tmp_path}/run").run(say)
    assert (standing.complete, standing.is_stopped) == (1, True)
    assert json.loads((tmp_path / "run/rounds/01/summary.json").read_text())["step"] == 1
    standing, said = run(path, f"run.dir={tmp_path}/run", resume=True)
    assert said[:3] == [
        "Going on after round 0 of 2.", "Round 1 of 2: 6 labels.",
        "Going on after step 1 of 3 (written by single on 1 ranks).",
    ]  # fmt: skip
    assert state(tmp_path / "run") == state(undisturbed)


def on_a_rank(path, folder):
    standing, _ = run(path, f"run.dir={folder}")
    return standing.complete


def test_two_ranks_ask_for_the_images_that_one_process_asks_for(whole, tmp_path):
    path, alone = whole
    assert run_ranks(2, on_a_rank, path, tmp_path / "run") == [3, 3]
    one, two = state(alone), state(tmp_path / "run")
    assert one["pool"] == two["pool"]
    for ours, theirs in zip(one["rounds"], two["rounds"], strict=True):
        assert theirs["f1_macro"] == pytest.approx(ours["f1_macro"], abs=1e-5)


@pytest.mark.parametrize("query", ["random", "coreset"])
def test_other_query_functions_and_one_label_an_image(whole, query):
    path, _ = whole
    active = loop(path, SMALL, f"query.name={query}", "labels.nomenclature=class", f"run.dir={path.parent}/{query}")
    assert active.run(lambda line: None).complete == 2
    told = json.loads((path.parent / query / "active.json").read_text())
    assert (told["query"], told["multi"]) == (query, False)
    assert set(told["mean_after_queries"]) == {"top1", "average_accuracy"}


def test_a_round_starts_from_the_one_before_or_from_the_beginning(whole, tmp_path):
    path, _ = whole
    resting = ("optim.lr=1e-12", "train.epochs=1", SMALL)
    first = loop(path, *resting)._job(0, pending=True).objective.state_dict()
    for warm in (True, False):
        active = loop(path, *resting, f"warm_start={str(warm).lower()}", f"run.dir={tmp_path}/{warm}")
        active.run(lambda line: None)
        last = Rounds(tmp_path / str(warm)).weights(1)
        assert all(torch.allclose(last[name], value, atol=1e-6) for name, value in first.items()) == warm


@pytest.fixture(scope="module")
def small(whole, tmp_path_factory):
    """The folder of a shorter loop with the shard set's labels."""
    folder = tmp_path_factory.mktemp("small")
    run(whole[0], SMALL, f"run.dir={folder}/run")
    return folder / "run"


def test_people_are_asked_and_their_answers_are_the_tables(whole, small, tmp_path):
    path, _ = whole
    by_people, shards = (SMALL, "oracle=csv", f"run.dir={tmp_path}/run"), path.parent / "shards"
    for number in range(2):
        standing, _ = run(path, *by_people, resume=number > 0)
        (table,) = standing.tables
        assert (standing.complete, table) == (number, tmp_path / f"run/to_label/round_{number:02d}/labels.csv")
        again, _ = run(path, *by_people, resume=True)  # nobody has filled it in
        assert again == standing
        fill(table, shards)
    standing, _ = run(path, *by_people, resume=True)
    assert (standing.complete, standing.tables) == (2, ())
    assert state(tmp_path / "run") == state(small)


def test_a_table_with_faults_loses_nothing(whole, tmp_path):
    path, _ = whole
    by_people, shards = (SMALL, "oracle=csv", f"run.dir={tmp_path}/run"), path.parent / "shards"
    (table,) = run(path, *by_people)[0].tables
    empty = table.read_bytes()
    known, unknown, *_ = [line.split(",")[0] for line in table.read_text("utf-8-sig").splitlines()[1:]]
    fill(table, shards, but={known: None, unknown: "forrest"})
    before = {one: one.read_bytes() for one in (tmp_path / "run").rglob("*") if one.is_file()}
    with pytest.raises(ConfigError, match=r"labels.csv has 2 faults:") as error:
        run(path, *by_people, resume=True)
    assert f"({unknown}): unknown label 'forrest' (nearest: forest)" in str(error.value)
    assert f"no row has the key '{known}'" in str(error.value)
    assert "Correct the file and go on" in str(error.value)
    assert {one: one.read_bytes() for one in before} == before
    table.write_bytes(empty)
    fill(table, shards)
    standing, _ = run(path, *by_people, resume=True)
    assert (standing.complete, standing.tables[0].parent.name) == (1, "round_01")


def test_images_that_nobody_has_labelled(whole, small, tmp_path):
    """Held-out ones are asked for together with the first, and all ends as if the shard set had had the labels."""
    labelled, _ = whole
    path = write_config(tmp_path, Unlabelled(samples=60, groups=GROUPS))
    people = (SMALL, "oracle.name=csv", "oracle.classes=[field, forest, water]", "labels.nomenclature=null")
    assert (
        "4 for validation, 4 for the test; 8 of them have no labels and will be asked for" in loop(path, *people).plan
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
    rows = {name: set(active.campaign.shards.keys(active.campaign.shards.select(name))) for name in ("train", "test")}
    split = active.pool.split
    assert set(split.test) <= rows["test"]
    assert {*split.val, *split.pool} <= rows["train"]
    assert (len(split.test), len(split.val), len(split.pool)) == (4, 4, 20)  # 24 of 48 are of Finland


def test_what_leaves_the_pool_and_what_it_lacks_is_told(whole, tmp_path):
    path, _ = whole
    scenario = (
        "{val: 4, test: 4, first: 4, per_round: 2, rounds: 0, scenario: 2, minority: [field, water], num_reduced: 1}"
    )
    _, said = run(path, f"budget={scenario}", f"run.dir={tmp_path}/a", "labels.nomenclature=class")
    assert len(said) == 3
    assert said[0].startswith("Scenario 2: 1")
    assert "fewer than the scenario has" in said[0]
    assert said[1].startswith("No image of the pool has '")
    assert said[1].endswith("'; no label can teach that.")
    one_class = write_config(tmp_path, Coloured(samples=60, groups=GROUPS))
    _, said = run(one_class, SMALL, "data.filter='water' in labels_class", "labels.nomenclature=class")
    assert said[0] == "No image of the pool has 'field', 'forest'; no label can teach that."


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("budget.rounds=20",), r"A budget of 44 labels \(4 and 20 rounds of 2\) got a pool of 42 .* Lower"),
        (("budget.test=60",), r"got 60 images; expected 67 at least. Lower budget.val"),
        (("budget.test=0",), r"budget.test: got 0, expected 1 at least: a round is worth .* Set the number of test"),
        (("labels.fraction=0.1",), r"labels: got \{'fraction': 0.1\} in a label-budget loop, .* Set budget.first"),
        (("labels.nomenclature=other",), r"has no nomenclature 'other'; it has \['all', 'class'\]"),
        (("budget.scenario=3",), r"Scenario 3 got the minority classes \['airplane', .* Set budget.minority"),
        (("oracle.classes=[a, b]",), r"oracle.classes: got \['a', 'b'\] for the oracle 'table', .* Leave them out, or"),
        (("oracle={name: csv, classes: [a;b, c]}",), r"A table of labels got the classes \['a;b'\]; .* Rename them"),
        (("labels.train_split=val",), r"has no split 'val'; it has"),
        (("labels.test_split=test", "budget.val=48"), r"splits got 0 images for budget.pool 1; .* Lower these"),
        (("sensors.s2.bands=[B02, B10]",), r"Bands \['B10'\] of sensor 's2' are not in the shard set"),
        (("data.split=train",), r"data.split: got 'train', expected none for fine-tuning"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_before_anything_is_written(whole, tmp_path, overrides, told):
    path, _ = whole
    with pytest.raises(ValueError, match=told):
        run(path, f"run.dir={tmp_path}/run", *overrides)
    assert not (tmp_path / "run").exists()


def test_a_set_without_labels_wants_people_and_classes(tmp_path):
    path = write_config(tmp_path, Unlabelled(samples=60, groups=GROUPS))
    with pytest.raises(
        ValueError, match=r"has no labels and so no list of classes; .* Set oracle.name=csv and oracle.cl"
    ):
        loop(path, "labels.nomenclature=null")


def test_resuming_with_other_settings_is_refused(whole):
    path, folder = whole
    before = (folder / "pool.json").read_bytes()
    with pytest.raises(
        ConfigError, match=r"run.dir: .* is not empty, expected a new folder. Go on with that run by --re"
    ):
        run(path)
    with pytest.raises(ConfigError, match=r"loop with budget.per_round 2, now 5; .* Take back the change"):
        run(path, "budget.per_round=5", resume=True)
    with pytest.raises(ConfigError, match=r"--resume: .*query.name was 'mge', now 'random'. Resume with the saved"):
        run(path, "query.name=random", resume=True)
    assert (folder / "pool.json").read_bytes() == before
    assert run(path, resume=True)[0].complete == 3  # and nothing to do
