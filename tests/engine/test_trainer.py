"""Law 6 for whole runs: real launchers, real signals; and what the loop does when steps are refused."""

import json
import shutil
import signal

import pytest
import torch

from engine.runs import BYOL, interrupt, job, last_step, launch, losses, whole_lines, write_config
from rspretrain.config import ConfigError
from rspretrain.engine.trainer import train
from rspretrain.schedules import cosine


@pytest.mark.slow
def test_sigterm_saves_and_sigkill_loses_nothing(tmp_path):
    path = write_config(tmp_path)
    run = tmp_path / "run"
    assert launch(path, BYOL).returncode == 0
    whole, ledger = losses(run), whole_lines(run / "ledger.jsonl")
    assert len(whole) == len(ledger) == 24
    shutil.rmtree(run)

    assert interrupt(path, signal.SIGTERM, 3, BYOL) == 0
    stopped = last_step(run / "metrics.jsonl")
    assert (run / "checkpoints" / "latest").read_text().strip() == f"step_{stopped:08d}"
    assert interrupt(path, signal.SIGKILL, 17, BYOL, "--resume") == -signal.SIGKILL
    result = launch(path, BYOL, "--resume")
    assert result.returncode == 0
    assert "Going on after step" in result.stdout
    assert losses(run) == whole
    assert whole_lines(run / "ledger.jsonl") == ledger


def test_momentum_and_drift_of_teachers_are_among_the_metrics(tmp_path):
    path = write_config(tmp_path, samples=32)
    train(job(path, BYOL), resume=False, say=print)
    lines = whole_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["train/momentum"] for line in lines] == [pytest.approx(cosine(k, 12, 0.9, 1.0)) for k in range(12)]
    assert lines[0]["health/teacher_drift"] == 0.0  # the first rate of warm-up is 0
    assert all(0 < line["health/teacher_drift"] < 1 for line in lines[1:])
    plain = job(path, f"run.dir={tmp_path}/plain")
    train(plain, resume=False, say=print)
    assert not {"train/momentum", "health/teacher_drift"} & set(whole_lines(tmp_path / "plain" / "metrics.jsonl")[-1])


def test_health_is_measured_in_the_steps_that_are_written(tmp_path):
    watched, run = [], job(write_config(tmp_path, samples=32), "watch.every=5")
    run.objective.encoders["s1"].register_forward_pre_hook(lambda *_: watched.append(run.objective.is_watched))
    train(run, resume=False, say=print)
    assert [step for step, seen in enumerate(watched, 1) if seen] == [1, 5, 10, 12]  # the first and the last always
    lines = whole_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "health/feature_std" in line] == [1, 5, 10, 12]


def test_refused_steps_end_the_run_with_the_keys_written(tmp_path):
    path = write_config(tmp_path, samples=16)
    doomed = job(path, "optim.name=sgd", "optim.lr=1e38", "train.max_refused=3", "optim.warmup_epochs=0")
    with pytest.raises(RuntimeError, match=r"3 steps in a row had a loss or gradient.*refused_batch.json has the keys"):
        train(doomed, resume=False, say=print)
    written = json.loads((tmp_path / "run" / "refused_batch.json").read_text())
    ledger = whole_lines(tmp_path / "run" / "ledger.jsonl")
    assert written["keys"] == next(line["keys"] for line in ledger if line["step"] == written["step"])
    assert whole_lines(tmp_path / "run" / "metrics.jsonl")[-1]["train/refused"] == 3


def blind(path, *overrides):
    """A run whose network is shown nothing but zeros."""
    planted = job(path, *overrides)
    planted.objective.views.register_forward_hook(
        lambda module, args, views: {name: torch.zeros_like(view) for name, view in views.items()}
    )
    return planted


def test_a_collapsed_run_ends_with_the_reason_where_that_is_asked(tmp_path):
    path, said = write_config(tmp_path), []
    with pytest.raises(
        RuntimeError,
        match=r"ended after step 5 because health.on_collapse is stop. health: collapsed since step 1. All samples "
        r"have had the same features .*checkpoints has step 5 .*--resume with health.on_collapse=warn goes on",
    ):
        train(blind(path, "health.on_collapse=stop"), resume=False, say=said.append)
    run = tmp_path / "run"
    assert (run / "checkpoints/latest").read_text().strip() == "step_00000005"
    summary = json.loads((run / "summary.json").read_text())
    assert not summary["complete"]
    assert summary["health"]["verdict"] == "collapsed"
    assert summary["health"]["findings"][0]["since_step"] == 1
    assert "is everything masked" in summary["health"]["findings"][0]["remedy"]
    assert [line["health/verdict"] for line in whole_lines(run / "metrics.jsonl")] == [0, 0, 0, 0, 2]
    assert [line.split(".")[0] for line in said] == ["health: collapsed since step 1"]

    resumed = train(blind(path, "health.on_collapse=warn", "train.steps=7"), resume=True, say=said.append)
    assert resumed.is_complete
    assert whole_lines(run / "metrics.jsonl")[-1]["health/verdict"] == 2
    assert len(said) == 2, said  # that it goes on; the verdict is the one that was told before
    assert json.loads((run / "summary.json").read_text())["health"]["findings"][0]["since_step"] == 1


def test_a_sound_run_is_called_healthy(tmp_path):
    said = []
    train(job(write_config(tmp_path), "train.steps=8", "health.on_collapse=stop"), resume=False, say=said.append)
    assert said == []
    assert json.loads((tmp_path / "run/summary.json").read_text())["health"] == {"verdict": "healthy", "findings": []}
    line = whole_lines(tmp_path / "run/metrics.jsonl")[-1]
    assert line["health/verdict"] == 0
    assert line["train/weight_growth"] == pytest.approx(1.0, abs=0.5)
    assert {"input/s1_10m/VV/offset", "input/s2_10m/B02/spread", "input/duplicates"} <= line.keys()
    assert "input/s2_10m/B08/spread" not in line  # in the shards, but nobody uses it


def test_resume_with_nothing_there_says_so(tmp_path):
    said = []
    finish = train(job(write_config(tmp_path, samples=16), "train.steps=2"), resume=True, say=said.append)
    assert (finish.step, finish.is_complete) == (2, True)
    assert said == [f"--resume: no checkpoint in {tmp_path / 'run'}; starting from step 0."]
    assert sorted(finish.exports) == ["s1", "s2"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["complete"]


def test_other_threads_than_before_are_told(tmp_path):
    path, said, threads = write_config(tmp_path, samples=16), [], torch.get_num_threads()
    train(job(path, "train.steps=1"), resume=False, say=print)
    try:
        torch.set_num_threads(threads + 1)
        train(job(path, "train.steps=2"), resume=True, say=said.append)
    finally:
        torch.set_num_threads(threads)
    assert said[1:] == [
        f"That was with {threads} threads a rank, now there are {threads + 1}: sums are taken in another order, so the "
        f"last bits will not be those of a run without a break. OMP_NUM_THREADS={threads} gives them."
    ]


def test_a_run_folder_is_never_overwritten_nor_mixed(tmp_path):
    path = write_config(tmp_path, samples=16)
    train(job(path, "train.steps=2"), resume=False, say=print)
    with pytest.raises(ConfigError, match=r"run is not empty, expected a new folder. Go on with that run by --resume"):
        train(job(path, "train.steps=4"), resume=False, say=print)
    with pytest.raises(ConfigError, match=r"optim.lr was 0.01, now 0.5. Resume with the saved values"):
        train(job(path, "train.steps=4", "optim.lr=0.5"), resume=True, say=print)
    (tmp_path / "other").mkdir()
    write_config(tmp_path / "other", samples=24)
    with pytest.raises(ConfigError, match=r"data.shards: .* has a manifest of SHA-256 .* expected that of the run"):
        train(job(path, f"data.shards={tmp_path}/other/shards"), resume=True, say=print)
    assert train(job(path, "train.steps=4"), resume=True, say=print).step == 4


def test_damaged_samples_are_replaced_and_named_in_the_summary(tmp_path):
    path = write_config(tmp_path, samples=32)
    shard = tmp_path / "shards/memory-000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    train(job(path, "data.on_corrupt=quarantine", "train.epochs=1"), resume=False, say=print)
    (lost,) = json.loads((tmp_path / "run/summary.json").read_text())["quarantined"]
    assert lost["shard"] == "memory-000000.tar"
    keys = [key for line in whole_lines(tmp_path / "run/ledger.jsonl") for key in line["keys"]]
    assert lost["key"] not in keys
    assert keys.count(lost["replaced_by"]) == 2
    assert whole_lines(tmp_path / "run/metrics.jsonl")[-1]["data/replaced"] == 1


def test_a_filter_chooses_the_samples(tmp_path):
    path = write_config(tmp_path, samples=64)
    train(job(path, "data.filter=country == 'Finland' and left < 400", "train.epochs=1"), resume=False, say=print)
    keys = {key for line in whole_lines(tmp_path / "run/ledger.jsonl") for key in line["keys"]}
    assert len(keys) == 16  # of the 20 odd numbers below 40, whole batches of 8
    assert all(int(key[-5:]) % 2 and int(key[-5:]) < 40 for key in keys)
