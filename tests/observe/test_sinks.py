import json
import math
from pathlib import Path

import pytest

from rspretrain.observe.sinks import Sinks, WatchSettings, read_metrics

OFF = WatchSettings(wandb="off")


def sinks(folder: Path, resume_step: int | None = None, settings: WatchSettings = OFF, first: bool = True) -> Sinks:
    return Sinks(folder, settings, {"seed": 1}, first, resume_step)


def test_numbers_are_read_back_exactly_and_step_is_first(tmp_path: Path) -> None:
    sink = sinks(tmp_path)
    sink.write(1, {"train/loss": 1 / 3, "perf/samples_per_s": 1e-17})
    line = (tmp_path / "metrics.jsonl").read_text()  # before close: every line is flushed
    assert line.startswith('{"step": 1, "train/loss": 0.3333333333333333,')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "train/loss": 1 / 3, "perf/samples_per_s": 1e-17}]


def test_lines_are_valid_json_for_nan_and_infinity(tmp_path: Path) -> None:
    sinks(tmp_path).write(3, {"train/loss": math.nan, "train/grad_norm": math.inf, "train/lr": 0.1})
    strict = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert strict["train/loss"] is None
    assert strict["nonfinite"] == {"train/loss": "nan", "train/grad_norm": "inf"}
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(row["train/loss"])
    assert row["train/grad_norm"] == math.inf
    assert row["train/lr"] == 0.1


def test_resume_drops_later_steps_and_an_incomplete_line(tmp_path: Path) -> None:
    sink = sinks(tmp_path)
    for step in range(1, 6):
        sink.write(step, {"train/loss": step / 7})
    before = (tmp_path / "metrics.jsonl").read_text()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/lo')  # killed in mid-write
    resumed = sinks(tmp_path, resume_step=3)
    for step in (4, 5):
        resumed.write(step, {"train/loss": step / 7})
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert not (tmp_path / "metrics.tmp").exists()


def test_a_broken_line_in_the_middle_is_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"Line 2 of .* is not JSON: '\{\"st'.*Repair or remove that line"):
        sinks(tmp_path, resume_step=3)


def test_a_new_run_never_overwrites_metrics(tmp_path: Path) -> None:
    sinks(tmp_path).write(1, {})
    with pytest.raises(ValueError, match=r"already exists, expected an empty folder for a new run\. Continue that run"):
        sinks(tmp_path)


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    sink = sinks(tmp_path, first=False, settings=WatchSettings())
    sink.write(1, {"train/loss": 1.0})
    sink.close({})
    assert list(tmp_path.iterdir()) == []


def test_wandb_offline_keeps_its_id_and_its_files_in_the_run(tmp_path: Path) -> None:
    for resume_step in (None, 1):
        sink = sinks(tmp_path, resume_step, WatchSettings())
        sink.write(1 if resume_step is None else 2, {"train/loss": 0.5})
        sink.close({"steps": 2})
    run_id = (tmp_path / "wandb_id").read_text()
    records = list(tmp_path.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))
    assert records
    assert all(b"train/loss" in record.read_bytes() for record in records)


def test_wandb_that_cannot_start_gives_one_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"wandb stopped: .*metrics\.jsonl has every number\. Set watch\.wandb=off"):
        sink = sinks(tmp_path, settings=WatchSettings(project="not/a:project"))
    sink.write(1, {"train/loss": 0.5})
    sink.close({})
    assert read_metrics(sink.path) == [{"step": 1, "train/loss": 0.5}]


def test_wandb_that_fails_during_the_run_gives_one_warning(tmp_path: Path) -> None:
    sink = sinks(tmp_path, settings=WatchSettings())
    sink._wandb._run.finish()  # as if its service had stopped
    with pytest.warns(UserWarning, match="wandb stopped"):
        sink.write(1, {"train/loss": 0.5})
    sink.write(2, {"train/loss": 0.25})
    sink.close({"steps": 2})
    assert [row["step"] for row in read_metrics(sink.path)] == [1, 2]
