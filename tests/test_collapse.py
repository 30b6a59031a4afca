"""The short form of benchmarks/collapse.py: three planted failures are named, three healthy runs are left in peace."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from collapse import FAULTS, HEALTHY, Land, measure

from rspretrain.shardset.build import build_shards

RUNS = {run.name: run for run in (*FAULTS, *HEALTHY)}
SHORT = ("train.steps=60", "train.global_batch=16", "watch.every=3", "optim.warmup_epochs=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collapse")
    build_shards(Land(64), folder / "shards", samples_per_shard=16, workers=1)
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("centering_off", "Restore the centering of the teacher"),
        ("constant_band", "Look at band B03 of s2_10m"),
        ("rate_far_too_high", "Lower optim.lr"),
    ],
)
def test_planted_failures_are_named_with_what_to_change(folder, name, words):
    row = measure(RUNS[name], folder, 0, SHORT)
    assert row["as_wanted"], row
    assert words in row["reason"]


@pytest.mark.parametrize("name", ["tiny_dino_rgb_cnn", "simclr_rgb_vit", "dual_simclr_cnn"])
def test_healthy_runs_are_left_in_peace(folder, name):
    row = measure(RUNS[name], folder, 0, SHORT)
    assert (row["verdict"], row["causes"]) == ("healthy", ""), row
