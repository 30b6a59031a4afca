import csv
import json
import os
import signal

import pytest
import torch

from engine.finetunes import write_config
from rspretrain.config import ConfigError
from rspretrain.engine.finetune import prepare_finetune
from rspretrain.engine.fractions import Method, check_cells, collect, parse_method, plan, run_cells, write_report
from rspretrain.engine.trainer import train
from rspretrain.nn.classifiers import Classifier
from rspretrain.world import World

METHODS = [parse_method("pretrained"), parse_method("slow: optim.lr=1e-9 'labels.nomenclature=all'")]
ALONE = World(0, 1, 0, torch.device("cpu"))
FAST = ("train.steps=4", "labels.val_share=0", "watch.every=4", "validation.resamples=0")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("fractions"))


def cells_of(path, folder, *overrides, fractions=(0.5, 0.1), seeds=2):
    return plan(path, [*FAST, f"run.dir={folder}", *overrides], METHODS, fractions, seeds)


def run(cells, log=lambda line: None):
    return run_cells(cells, ALONE, False, log)


@pytest.fixture(scope="module")
def done(path):
    """A complete ablation of four cells, and its log lines."""
    cells, lines = cells_of(path, path.parent / "ablation", seeds=1), []
    assert run(cells, lines.append)
    return cells, lines


def ask_to_stop(*_):
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_method_is_the_configuration_a_tuning_mode_or_overrides():
    assert parse_method("pretrained") == Method("pretrained", ())
    assert parse_method("scratch") == Method("scratch", ("tune={mode: scratch}",))
    assert parse_method("early: network.fusion=early 'sensors={a: 1}'").overrides == (
        "network.fusion=early", "sensors={a: 1}",
    )  # fmt: skip
    for text in ("frozen", "a/b: x=1", ": x=1"):
        with pytest.raises(ConfigError, match=rf"--methods: got '{text}', expected pretrained .*one of full, linear"):
            parse_method(text)


def test_cells_differ_only_in_folder_seeds_and_labels(path, tmp_path):
    cells = cells_of(path, tmp_path, "run.seed=40", "labels.seed=7")
    assert [one.settings.run.dir.relative_to(tmp_path).as_posix() for one in cells] == [
        f"{method}/{fraction}/{seed}"
        for fraction in ("0.1", "0.5") for seed in (40, 41) for method in ("pretrained", "slow")
    ]  # fmt: skip
    assert [one.settings.labels.seed for one in cells] == [7, 7, 8, 8] * 2
    assert [one.settings.labels.fraction for one in cells] == [0.1] * 4 + [0.5] * 4
    assert {(one.method.name, one.settings.optim.lr) for one in cells} == {("pretrained", 3e-3), ("slow", 1e-9)}
    assert len({one.settings.run.name for one in cells}) == 8


def test_the_report_has_all_cells(done):
    cells, lines = done
    found = collect(cells)
    assert [one.n_train for one in found] == [8, 8, 40, 40]
    assert [line for line in lines if line.startswith("[")][2] == "[3/4] pretrained, 50 % of the labels, seed 3"
    root = cells[0].settings.run.dir.parents[2]
    assert write_report(cells, found, root).startswith("ap_macro, percent; mean and standard deviation of 1 seeds")
    rows = list(csv.DictReader((root / "fractions.csv").open()))
    for one, row in zip(cells, rows, strict=True):
        results = json.loads((one.settings.run.dir / "results.json").read_text())
        assert float(row["ap_macro"]) == results["test"]["ap_macro"]
        assert int(row["n_train"]) == results["n_train"]
    content = json.loads((root / "fractions.json").read_text())
    assert content["methods"] == {"pretrained": [], "slow": ["optim.lr=1e-9", "labels.nomenclature=all"]}
    assert (content["planned"], len(content["runs"]), len(content["points"])) == (4, 4, 4)
    assert content["points"][0]["mean"]["ap_macro"] == pytest.approx(float(rows[0]["ap_macro"]))
    assert (root / "fractions.png").stat().st_size > 5000


def test_complete_cells_are_skipped_and_interrupted_ones_resume(done, path):
    """Two of four cells are complete, one was stopped by a signal in its first step, one has not begun."""
    cells, _ = done
    before = {one.settings.run.dir: (one.settings.run.dir / "results.json").stat().st_mtime_ns for one in cells}
    more = cells_of(path, cells[0].settings.run.dir.parents[2], fractions=(0.1,))
    stopped = prepare_finetune(more[2].settings, ALONE, False)
    step, lines = stopped.objective.classifier.register_forward_hook(ask_to_stop), []
    assert not train(stopped, resume=False, log=lines.append).is_complete
    step.remove()
    assert run(more, lines.append)
    assert lines == [
        "[3/4] pretrained, 10 % of the labels, seed 4, resumed",
        "Resuming after step 1 of 4 (written by single on 1 ranks).",
        "[4/4] slow, 10 % of the labels, seed 4",
    ]
    assert before == {folder: (folder / "results.json").stat().st_mtime_ns for folder in before}
    assert len(collect(more)) == 4


@pytest.mark.parametrize("steps", [4, 1])
def test_a_signal_stops_the_whole_ablation(path, tmp_path, steps):
    """Also in the last step of a cell, which then completes."""
    cells, lines = cells_of(path, tmp_path / "a", f"train.steps={steps}", fractions=(0.5,), seeds=1), []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: ask_to_stop() if isinstance(module, Classifier) and module.training else None
    )
    try:
        assert not run(cells, lines.append)
    finally:
        hook.remove()
    assert lines == ["[1/2] pretrained, 50 % of the labels, seed 3"]
    assert len(collect(cells)) == (steps == 1)


def test_other_settings_in_the_same_folders_are_refused(done, path):
    cells = cells_of(path, done[0][0].settings.run.dir.parents[2], "optim.weight_decay=0.5")
    with pytest.raises(ConfigError, match=r"optim.weight_decay was 0.0001, now 0.5. Resume with the saved values"):
        run(cells)


@pytest.mark.parametrize(
    ("fractions", "seeds", "message"),
    [
        ((0.1, 0.1), 1, r"--fractions: got \(0.1, 0.1\), expected each value once"),
        ((0.1,), 0, r"--seeds: got 0, expected"),
    ],
)
def test_invalid_options_are_refused(path, tmp_path, fractions, seeds, message):
    with pytest.raises(ConfigError, match=message):
        cells_of(path, tmp_path, fractions=fractions, seeds=seeds)


def test_all_methods_are_checked_before_training(path, tmp_path):
    wrong = [parse_method("pretrained"), parse_method("wrong: labels.nomenclature=other")]
    cells = plan(path, [f"run.dir={tmp_path}"], wrong, (1.0,), 1)
    with pytest.raises(ValueError, match="has no nomenclature 'other'"):
        check_cells(cells, ALONE, False)
    assert not list(tmp_path.iterdir())
