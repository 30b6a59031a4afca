"""Runs with real launchers and real signals; refused steps, collapse, resuming and replaced samples."""

import json
import os
import shutil
import signal

import pytest
import torch

from engine.runs import BYOL, interrupt, job, last_step, launch, losses, whole_lines, write_config
from rspretrain.config import ConfigError
from rspretrain.engine.trainer import StopRequest, train
from rspretrain.schedules import cosine


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_recorded_and_handlers_are_restored(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert stop.received == signal.Signals(number).name
    assert signal.getsignal(number) is before


@pytest.mark.slow
def test_a_run_after_sigterm_and_sigkill_equals_an_uninterrupted_run(tmp_path):
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
    assert "Resuming after step" in result.stdout
    assert losses(run) == whole
    assert whole_lines(run / "ledger.jsonl") == ledger


def test_metrics_of_teachers(tmp_path):
    path = write_config(tmp_path, samples=32)
    train(job(path, BYOL), resume=False, log=print)
    lines = whole_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["train/momentum"] for line in lines] == [pytest.approx(cosine(k, 12, 0.9, 1.0)) for k in range(12)]
    assert lines[0]["health/teacher_drift"] == 0.0  # the warm-up starts at learning rate 0
    assert all(0 < line["health/teacher_drift"] < 1 for line in lines[1:])
    plain = job(path, f"run.dir={tmp_path}/plain")
    train(plain, resume=False, log=print)
    assert not {"train/momentum", "health/teacher_drift"} & set(whole_lines(tmp_path / "plain" / "metrics.jsonl")[-1])


def test_health_is_measured_only_in_logged_steps(tmp_path):
    logged, run = [], job(write_config(tmp_path, samples=32), "watch.every=5")
    run.objective.encoders["s1"].register_forward_pre_hook(lambda *_: logged.append(run.objective.compute_health))
    train(run, resume=False, log=print)
    assert [step for step, seen in enumerate(logged, 1) if seen] == [1, 5, 10, 12]  # always the first and the last
    lines = whole_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "health/feature_std" in line] == [1, 5, 10, 12]


def test_refused_steps_stop_the_run_and_write_the_keys(tmp_path):
    path = write_config(tmp_path, samples=16)
    doomed = job(path, "optim.name=sgd", "optim.lr=1e38", "train.max_refused=3", "optim.warmup_epochs=0")
    with pytest.raises(RuntimeError, match=r"3 consecutive steps up to step .*refused_batch.json has the keys"):
        train(doomed, resume=False, log=print)
    written = json.loads((tmp_path / "run" / "refused_batch.json").read_text())
    ledger = whole_lines(tmp_path / "run" / "ledger.jsonl")
    assert written["keys"] == next(line["keys"] for line in ledger if line["step"] == written["step"])
    assert whole_lines(tmp_path / "run" / "metrics.jsonl")[-1]["train/refused"] == 3


def blind(path, *overrides):
    """A run whose views are all zero."""
    planted = job(path, *overrides)
    planted.objective.views.register_forward_hook(
        lambda module, args, views: {name: torch.zeros_like(view) for name, view in views.items()}
    )
    return planted


def test_a_collapsed_run_stops_with_on_collapse_stop(tmp_path):
    path, messages = write_config(tmp_path), []
    with pytest.raises(
        RuntimeError,
        match=r"stopped after step 5, because health.on_collapse=stop. health: collapsed since step 1. All samples "
        r"have had the same features .*checkpoints has step 5 .*use --resume with health.on_collapse=warn",
    ):
        train(blind(path, "health.on_collapse=stop"), resume=False, log=messages.append)
    run = tmp_path / "run"
    assert (run / "checkpoints/latest").read_text().strip() == "step_00000005"
    summary = json.loads((run / "summary.json").read_text())
    assert not summary["complete"]
    assert summary["health"]["verdict"] == "collapsed"
    assert summary["health"]["findings"][0]["since_step"] == 1
    assert "is everything masked" in summary["health"]["findings"][0]["remedy"]
    assert [line["health/verdict"] for line in whole_lines(run / "metrics.jsonl")] == [0, 0, 0, 0, 2]
    assert [line.split(".")[0] for line in messages] == ["health: collapsed since step 1"]

    resumed = train(blind(path, "health.on_collapse=warn", "train.steps=7"), resume=True, log=messages.append)
    assert resumed.is_complete
    assert whole_lines(run / "metrics.jsonl")[-1]["health/verdict"] == 2
    assert len(messages) == 2, messages  # only that it resumes; the verdict is unchanged
    assert json.loads((run / "summary.json").read_text())["health"]["findings"][0]["since_step"] == 1


def test_a_good_run_is_healthy(tmp_path):
    messages = []
    train(job(write_config(tmp_path), "train.steps=8", "health.on_collapse=stop"), resume=False, log=messages.append)
    assert messages == []
    assert json.loads((tmp_path / "run/summary.json").read_text())["health"] == {"verdict": "healthy", "findings": []}
    line = whole_lines(tmp_path / "run/metrics.jsonl")[-1]
    assert line["health/verdict"] == 0
    assert line["train/weight_growth"] == pytest.approx(1.0, abs=0.5)
    assert {"input/s1_10m/VV/offset", "input/s2_10m/B02/spread", "input/duplicates"} <= line.keys()
    assert "input/s2_10m/B08/spread" not in line  # in the shards, but not used


def test_resume_without_a_checkpoint(tmp_path):
    messages = []
    result = train(job(write_config(tmp_path, samples=16), "train.steps=2"), resume=True, log=messages.append)
    assert (result.step, result.is_complete) == (2, True)
    assert messages == [f"--resume: no checkpoint in {tmp_path / 'run'}; starting from step 0."]
    assert sorted(result.exports) == ["s1", "s2"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["complete"]


def test_a_changed_number_of_threads_is_logged(tmp_path):
    path, messages, threads = write_config(tmp_path, samples=16), [], torch.get_num_threads()
    train(job(path, "train.steps=1"), resume=False, log=print)
    try:
        torch.set_num_threads(threads + 1)
        train(job(path, "train.steps=2"), resume=True, log=messages.append)
    finally:
        torch.set_num_threads(threads)
    assert messages[1:] == [
        f"The run used {threads} threads per rank, now {threads + 1}: the order of sums changes, so results may differ "
        f"in the last bits from a run without interruption. Set OMP_NUM_THREADS={threads} for equal bits."
    ]


def test_a_run_folder_is_never_overwritten(tmp_path):
    path = write_config(tmp_path, samples=16)
    train(job(path, "train.steps=2"), resume=False, log=print)
    with pytest.raises(ConfigError, match=r"run is not empty, expected a new folder. Resume that run with --resume"):
        train(job(path, "train.steps=4"), resume=False, log=print)
    with pytest.raises(ConfigError, match=r"optim.lr was 0.01, now 0.5. Resume with the saved values"):
        train(job(path, "train.steps=4", "optim.lr=0.5"), resume=True, log=print)
    (tmp_path / "other").mkdir()
    write_config(tmp_path / "other", samples=24)
    with pytest.raises(ConfigError, match=r"data.shards: the manifest of .* has SHA-256 .* as at the start of the run"):
        train(job(path, f"data.shards={tmp_path}/other/shards"), resume=True, log=print)
    assert train(job(path, "train.steps=4"), resume=True, log=print).step == 4


def test_the_summary_lists_replaced_samples(tmp_path):
    path = write_config(tmp_path, samples=32)
    shard = tmp_path / "shards/memory-000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    train(job(path, "data.on_corrupt=quarantine", "train.epochs=1"), resume=False, log=print)
    (lost,) = json.loads((tmp_path / "run/summary.json").read_text())["quarantined"]
    assert lost["shard"] == "memory-000000.tar"
    keys = [key for line in whole_lines(tmp_path / "run/ledger.jsonl") for key in line["keys"]]
    assert lost["key"] not in keys
    assert keys.count(lost["replaced_by"]) == 2
    assert whole_lines(tmp_path / "run/metrics.jsonl")[-1]["data/replaced"] == 1


def test_a_filter_selects_samples(tmp_path):
    path = write_config(tmp_path, samples=64)
    train(job(path, "data.filter=country == 'Finland' and left < 400", "train.epochs=1"), resume=False, log=print)
    keys = {key for line in whole_lines(tmp_path / "run/ledger.jsonl") for key in line["keys"]}
    assert len(keys) == 16  # two full batches of 8 from the 20 odd numbers below 40
    assert all(int(key[-5:]) % 2 and int(key[-5:]) < 40 for key in keys)
