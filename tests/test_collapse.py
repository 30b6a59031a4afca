"""The short form of benchmarks/collapse.py: four injected failures are reported, four healthy runs are not."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from collapse import FAULTS, HEALTHY, OTHERS, Land, measure

from rspretrain.objectives import OBJECTIVES
from rspretrain.shardset.building.build import build_shards

RUNS = {run.name: run for run in (*FAULTS, *HEALTHY)}
SHORT = ("train.steps=60", "train.global_batch=16", "watch.every=3", "optim.warmup_epochs=1")
LONGER = (*SHORT[1:], "train.steps=120")  # for DINO to lose its targets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collapse")
    build_shards(Land(64), folder / "shards", samples_per_shard=16, workers=1)
    return folder


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("centering_off", LONGER, "Restore the centering of the teacher"),
        ("constant_band", SHORT, "Check band B03 of s2_10m"),
        ("masked_everything", SHORT, "is everything masked"),
        ("rate_far_too_high", SHORT, "Lower optim.lr"),
    ],
)
def test_injected_failures_are_named_with_a_remedy(folder, name, overrides, words):
    row = measure(RUNS[name], folder, 0, overrides)
    assert row["as_wanted"], row
    assert words in row["reason"]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("dino_rgb_cnn", LONGER), ("gsc_mim_s2_vit", SHORT), ("mae_s2_vit", SHORT), ("dual_simclr_cnn", SHORT)],
)
def test_healthy_runs_are_left_in_peace(folder, name, overrides):
    row = measure(RUNS[name], folder, 0, overrides)
    assert (row["verdict"], row["causes"]) == ("healthy", ""), row


def test_the_suite_has_twelve_failures_and_healthy_runs_of_every_objective():
    assert (len(FAULTS), len(HEALTHY), len(OTHERS)) == (12, 12, 24)
    assert {run.objective["name"] for run in HEALTHY} == set(OBJECTIVES)
