import json
import shutil

import pytest
import torch
from gloo import run_ranks

from engine.finetunes import finetune, job, on_this_rank, results, write_config
from engine.runs import whole_lines
from rspretrain import config
from rspretrain.engine.checkpoint import Checkpoints, read_checkpoint
from rspretrain.engine.finetune import prepare_finetune
from rspretrain.engine.trainer import train
from rspretrain.world import World


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A configuration and the results of its run."""
    path = write_config(tmp_path_factory.mktemp("classification"))
    return path, finetune(path)


def test_a_run_learns_and_reports_its_metrics(run):
    path, found = run
    assert found["test"]["ap_macro"] > 0.9  # chance is 0.5 to 0.7
    assert (found["n_train"], found["n_val"], found["n_test"]) == (64, 16, 20)
    assert found["classes"] == ["field", "forest", "water"]
    assert found["test"]["support_per_class"] == [14, 13, 13]
    intervals = found["intervals_95"]
    assert intervals["ap_macro"]["low"] <= found["test"]["ap_macro"] <= intervals["ap_macro"]["high"]
    assert len(intervals["ap_per_class"]) == 3
    assert [one["step"] for one in found["validation"]] == [8, 16, 24]
    lines = {line["step"]: line for line in whole_lines(path.parent / "run/metrics.jsonl")}
    assert [step for step, line in lines.items() if "val/ap_macro" in line] == [8, 16, 24]
    assert [lines[step]["val/ap_macro"] for step in (8, 16, 24)] == [one["ap_macro"] for one in found["validation"]]


def test_the_best_weights_are_tested_and_kept(tmp_path):
    path = write_config(tmp_path)
    found = finetune(path, "optim.lr=0.03", "train.epochs=6", "train.keep=1")
    scores = {one["step"]: one["ap_macro"] for one in found["validation"]}
    best = min(step for step, score in scores.items() if score == max(scores.values()))
    assert found["step"] == best
    folders = {one.name for one in (tmp_path / "run/checkpoints").glob("step_*")}
    assert folders == {f"step_{best:08d}", "step_00000048"}
    last = finetune(path, "optim.lr=0.03", "train.epochs=6", "validation.keep=last", f"run.dir={tmp_path}/last")
    assert last["step"] == 48
    assert last["validation"] == found["validation"]


def test_patience_ends_a_run_and_resuming_it_changes_nothing(tmp_path):
    path = write_config(tmp_path)
    settings = ("optim.lr=1e-9", "train.epochs=20", "validation.patience=2")  # too small to improve
    found = finetune(path, *settings)
    assert [one["step"] for one in found["validation"]] == [8, 16, 24]
    assert found["step"] == 8
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["step"], summary["total_steps"], summary["complete"]) == (24, 160, True)
    again = finetune(path, *settings, resume=True)
    assert again == found


def test_a_run_resumed_from_an_earlier_checkpoint_gives_the_same_results(run, tmp_path):
    """With all files after step 8 lost, steps 16 and 24 are repeated."""
    path, whole = run
    copied = tmp_path / "run"
    shutil.copytree(path.parent / "run", copied)
    for step in (16, 24):
        shutil.rmtree(copied / f"checkpoints/step_{step:08d}", ignore_errors=True)
    if not (copied / "checkpoints/step_00000008").exists():
        pytest.fail("the first validation of a run is the best so far, so its checkpoint must exist")
    (copied / "checkpoints/latest").write_text("step_00000008\n")
    (copied / "results.json").unlink()
    again = finetune(path, f"run.dir={copied}", resume=True)
    assert again == whole


def test_two_ranks_give_the_scores_of_one_process(run):
    """Under DDP and FSDP2, with the same images and results."""
    path, alone = run
    for strategy in ("ddp", "fsdp"):
        folder = path.parent / strategy
        ranks = run_ranks(2, on_this_rank, path, f"run.dir={folder}", f"strategy.name={strategy}")
        assert ranks[0] == ranks[1] == results(folder)
        for name in ("n_train", "n_val", "n_test", "step", "train_images_per_class"):
            assert ranks[0][name] == alone[name]
        for name, value in alone["test"].items():
            if isinstance(value, float):
                assert ranks[0]["test"][name] == pytest.approx(value, abs=1e-3), name


def test_without_validation_images_the_last_weights_are_kept(tmp_path):
    found = finetune(write_config(tmp_path), "labels.val_share=0")
    assert (found["n_val"], found["n_train"], found["step"], found["validation"]) == (0, 80, 30, [])


def test_single_label_images(tmp_path):
    found = finetune(write_config(tmp_path), "labels.nomenclature=class", "labels.fraction=0.5")
    assert not found["multi"]
    assert found["fraction"] == 0.5
    assert found["n_train"] == 32
    assert set(found["test"]) >= {"top1", "average_accuracy", "recall_per_class", "confusion"}


def test_invalid_validation_settings_are_refused(tmp_path):
    with pytest.raises(config.ConfigError, match=r"validation.metric: got 'top1' .* expected one of .*ap_macro"):
        job(write_config(tmp_path), "validation.metric=top1")
    with pytest.raises(config.ConfigError, match=r"validation.patience: got 3 without validation images"):
        job(tmp_path / "finetune.yaml", "validation.patience=3", "labels.val_share=0")


def test_initial_weights_are_loaded(run, tmp_path):
    path, _ = run
    folder = path.parent / "run/checkpoints/step_00000024"
    weights = read_checkpoint(folder)[1]
    settings = config.load_finetune(path, [f"run.dir={tmp_path}/next", "train.steps=1", "optim.lr=1e-12"])
    warm = prepare_finetune(settings, World(0, 1, 0, torch.device("cpu")), False, initial=weights)
    train(warm, resume=False, log=lambda line: None)
    after = Checkpoints(tmp_path / "next/checkpoints", 1).weights(1)
    assert after.keys() == weights.keys()
    for name, value in after.items():
        torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=0)
