import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from fakes.memory import memory_shards
from safetensors.torch import save_file

from rspretrain import config
from rspretrain.active_learning.budget import BudgetSettings
from rspretrain.active_learning.labelling_task import open_labelling_task
from rspretrain.active_learning.oracle import OracleSettings
from rspretrain.engine.checkpoint import RunState, file_sha256
from rspretrain.engine.rounds import Rounds
from rspretrain.evaluation.metrics import metric_names


def write(folder: Path, number: int, *, complete: bool = True, step: int = 6) -> Path:
    """Write the files of a fine-tuning run that a loop reads: two checkpoints with weights of 10 number + step."""
    run = folder / f"rounds/{number:02d}"
    (run / "export/classifier").mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps({"complete": complete}))
    test = dict.fromkeys(metric_names(True), 0.1 * number)
    intervals = {"f1_micro": {"low": 0.0, "high": 1.0}, "f1_per_class": [{"low": 0.0, "high": 1.0}] * 3}
    results = {"step": step, "n_train": 4 + 2 * number, "test": test, "intervals_95": intervals}
    (run / "results.json").write_text(json.dumps(results))
    for at in (3, 6):
        one = run / f"checkpoints/step_{at:08d}"
        one.mkdir(parents=True)
        for name in ("weights.safetensors", "optimizer.safetensors"):
            save_file({"w": torch.full((2,), 10.0 * number + at)}, one / name)
        sums = {path.name: file_sha256(path) for path in one.iterdir()}
        state = RunState(at, at, at, "single", 1, "", "")
        (one / "state.json").write_text(json.dumps({"format": 1, **asdict(state), "sha256": sums}))
    return run


def test_the_files_of_a_run_tell_whether_it_has_started_and_is_complete(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path)
    assert rounds.complete() == []
    write(tmp_path, 0)
    write(tmp_path, 1, complete=False)
    assert (rounds.complete(), rounds.has_started(1), rounds.has_started(2)) == ([0], True, False)
    rounds.folder(2).mkdir()
    assert not rounds.has_started(2)


def test_weights_are_the_tested_ones(tmp_path: Path) -> None:
    write(tmp_path, 1, step=3)
    assert Rounds(tmp_path).weights(1)["w"].tolist() == [13.0, 13.0]


def test_pruning_keeps_results_and_the_weights_for_the_next_round(tmp_path: Path) -> None:
    runs, rounds = [write(tmp_path, number) for number in range(3)], Rounds(tmp_path)
    for _ in range(2):
        rounds.prune(1)
        assert [path.name for path in (runs[1] / "checkpoints").iterdir()] == ["step_00000006"]
        assert sorted(path.name for path in runs[0].iterdir()) == ["results.json", "summary.json"]
    assert rounds.weights(1)["w"].tolist() == [16.0, 16.0]
    assert len(list((runs[2] / "checkpoints").iterdir())) == 2


def test_the_report_joins_all_complete_rounds(tmp_path: Path) -> None:
    shards = memory_shards(tmp_path / "shards", samples=40)
    tree = {
        "run": {"dir": str(tmp_path)}, "data": {"shards": str(tmp_path / "shards")}, "train": {"global_batch": 2},
        "budget": {"val": 4, "test": 6, "first": 4, "per_round": 2, "rounds": 3, "seed": 7},
        "labels": {"nomenclature": "all"},
    }  # fmt: skip
    settings = config.parse_as(config.ActiveSettings, tree)
    task = open_labelling_task(shards, settings.labels, OracleSettings())
    pool = task.start(settings.labels, BudgetSettings(**tree["budget"]), OracleSettings(), None)
    for number in range(3):
        write(tmp_path, number)
    write(tmp_path, 3, complete=False)
    Rounds(tmp_path).report(settings, task, pool)
    summary = json.loads((tmp_path / "active.json").read_text())
    assert [(point["labels"], point["ap_micro"]) for point in summary["rounds"]] == [(4, 0.0), (6, 0.1), (8, 0.2)]
    assert summary["rounds"][0]["intervals_95"] == {"f1_micro": {"low": 0.0, "high": 1.0}}
    assert (summary["query"], summary["seed"], summary["num_pool"], summary["num_test"]) == ("mge", 7, 30, 6)
    assert summary["mean_after_queries"] == pytest.approx(dict.fromkeys(("f1_micro", "f1_macro", "ap_macro"), 0.15))
    header, *lines = (tmp_path / "active.csv").read_text().splitlines()
    assert header.startswith("round,labels,")
    assert [line.split(",")[:2] for line in lines] == [["0", "4"], ["1", "6"], ["2", "8"]]
