"""Runs on several shard sets: counts, resuming with another world size, and refusal of changed sets."""

import json

import pytest
from fakes.memory import SCENE_GROUPS, memory_shards

from engine.runs import job, launch, losses, whole_lines, write_config
from engine.test_elastic import torchrun
from rspretrain.config import ConfigError
from rspretrain.engine.job import describe
from rspretrain.engine.trainer import train


def mixture(folder, weights=(0.75, 0.25), second="b"):
    """A configuration with two shard sets."""
    path = write_config(folder)
    memory_shards(folder / "a", samples=40)
    memory_shards(folder / "b", samples=24, seed=1)
    sources = ", ".join(
        f"{{shards: {folder}/{name}, weight: {weight}}}" for name, weight in zip(("a", second), weights, strict=True)
    )
    path.write_text(path.read_text().replace(f"shards: {folder}/shards", f"sources: [{sources}]"))
    return path


def test_counts_in_metrics_and_plan(tmp_path):
    made = job(mixture(tmp_path), "train.steps=10")
    share, times = made.loader.samples_seen(10)["a"] / 80, made.loader.epochs_seen(10)["a"]
    assert f"source a                    {share:.1%} of all samples; {times:.1f} epochs of it" in describe(made)
    assert 0.6 < share < 0.9
    train(made, resume=False, log=print)
    last = whole_lines(tmp_path / "run/metrics.jsonl")[-1]
    keys = [key for line in whole_lines(tmp_path / "run/ledger.jsonl") for key in line["keys"]]
    for name, length in (("a", 40), ("b", 24)):
        count = sum(key.startswith(f"{name}:") for key in keys)
        assert last[f"data/{name}/samples"] == count
        assert last[f"data/{name}/epochs"] == pytest.approx(count / length)
    assert len(keys) == 80
    assert 0 <= last["perf/data_wait_share"] <= 1
    assert last["perf/loader_cores"] > 0


@pytest.mark.slow
def test_resuming_with_another_world_size(tmp_path):
    path = mixture(tmp_path)
    assert launch(path, "train.steps=12").returncode == 0
    run = tmp_path / "run"
    uninterrupted, whole = whole_lines(run / "ledger.jsonl"), losses(run)
    run.rename(tmp_path / "first")
    assert launch(path, "train.steps=12", "train.checkpoint_every=5", "train.keep=9").returncode == 0
    (run / "checkpoints/latest").write_text("step_00000005\n")
    (run / "summary.json").unlink()
    for step in (10, 12):
        assert (run / f"checkpoints/step_{step:08d}").rename(tmp_path / f"gone_{step}")
    result = launch(path, "train.steps=12", "strategy.name=ddp", "--resume", launcher=(*torchrun(2), "python"))
    assert result.returncode == 0, result.stderr
    assert "Resuming after step 5" in result.stdout
    assert whole_lines(run / "ledger.jsonl") == uninterrupted
    assert losses(run)[:5] == whole[:5]
    assert json.loads((run / "summary.json").read_text())["complete"]


def test_sets_may_move_but_not_change(tmp_path):
    path = mixture(tmp_path)
    train(job(path, "train.steps=2"), resume=False, log=print)
    (tmp_path / "b").rename(tmp_path / "c")
    moved = f"data.sources=[{{shards: {tmp_path}/a, weight: 0.75}}, {{shards: {tmp_path}/c, weight: 0.25, name: b}}]"
    with pytest.raises(ConfigError, match="data.sources.1.name was None, now 'b'"):
        train(job(path, "train.steps=4", moved), resume=True, log=print)
    moved = moved.replace(", name: b", "")
    assert train(job(path, "train.steps=4", moved), resume=True, log=print).step == 4
    with pytest.raises(ConfigError, match=r"data.sources.1.weight was 0.25, now 0.5"):
        train(job(path, "train.steps=6", moved.replace("0.25", "0.5")), resume=True, log=print)
    memory_shards(tmp_path / "d", samples=24, seed=2)
    with pytest.raises(ConfigError, match=r"manifest of a \+ d has SHA-256 .* expected .* as at the start of the run"):
        train(job(path, "train.steps=6", moved.replace("/c,", "/d,")), resume=True, log=print)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.streams=4", r"b: data.streams: got 4 for 3 shards with samples, expected at least one shard per stream"),
        ("data.sources=[{shards: a, wieght: 1}]", r"Unknown key 'data.sources.0.wieght'. Did you mean .*weight'\?"),
        ("data.shards=a", r"both `shards` and `sources`, expected one of them"),
    ],
)
def test_invalid_mixtures(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        job(mixture(tmp_path), override)


def test_a_set_of_another_sensor(tmp_path):
    path = mixture(tmp_path, second="rgb")
    memory_shards(tmp_path / "rgb", samples=8, groups=SCENE_GROUPS)
    with pytest.raises(ValueError, match=r"has the groups \['rgb'\], expected one that all of \['a', 'rgb'\] have"):
        job(path)
