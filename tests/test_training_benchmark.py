"""The training benchmark counts operations correctly, replays all network calls, and lightly's loss equals ours."""

import csv
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import training
from training_bench import CASES, PARTS, Parts, Run, Setting, build, make_job
from training_competitors import VIEWS, make_comparison
from training_flops import count, formula, gpu_peak, matmul_rate
from training_networks import Networks, networks_of

SMALL = Setting(px=30, batch=4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return build(tmp_path_factory.mktemp("shards"), 16)


def networks(name, shards, run):
    job = make_job(CASES[name], SMALL, shards, run)
    job.objective.prepare(job.progress(2 * job.loader.steps_per_epoch))
    batch = next(job.loader.batches())
    return job.objective, batch, Networks(job.objective, batch, SMALL.autocast)


@pytest.mark.parametrize("name", ["simclr", "simclr s2", "byol", "moco_v3"])
def test_the_formula_equals_the_count_of_torch(name, shards, tmp_path):
    objective, _, alone = networks(name, shards, tmp_path)
    assert formula(objective, 4) == count(alone.run)


def test_other_objectives_have_no_formula(shards, tmp_path):
    assert formula(networks("mae", shards, tmp_path)[0], 4) is None


def test_a_matrix_product_has_two_operations_per_term(monkeypatch):
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert count(lambda: a @ b) == 2 * 3 * 5 * 7
    monkeypatch.setattr("training_flops.SIDE", 64)
    assert matmul_rate(torch.float32) > 0


def test_peaks_are_found_by_device_name():
    assert gpu_peak("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert gpu_peak("NVIDIA H100 PCIe", "bf16") == 756e12
    with pytest.raises(ValueError, match=r"^No peak is known for 'TPU' in bf16, expected bf16 and one of \[.*\]\. Set"):
        gpu_peak("TPU", "bf16")


@pytest.mark.parametrize("name", CASES)
def test_the_networks_have_nearly_all_operations_of_a_step(name, shards, tmp_path):
    """The rest, without views, are the few products of losses, health and centers; a missing network would be more."""
    objective, batch, alone = networks(name, shards, tmp_path)
    views = getattr(objective, "sensor_views", None) or objective.views
    own, step = count(alone.run), count(lambda: objective(batch).loss.backward()) - count(lambda: views(batch))
    assert 0.97 * step < own <= step
    moved = {name for name, p in objective.named_parameters() if p.grad is not None}
    alone.clear()
    alone.run()
    assert {name for name, p in objective.named_parameters() if p.grad is not None} == moved


def test_views_and_parts_of_blocks_are_not_networks(shards, tmp_path):
    objective, _, _ = networks("byol", shards, tmp_path)
    found = networks_of(objective)
    assert objective.views not in found
    assert objective.student["rgb"].encoder.model.blocks[0] not in found
    assert objective.predictor["rgb"] in found


@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_lightly_has_the_same_first_loss(method, shards, tmp_path):
    comparison, run = make_comparison(method, SMALL, shards, tmp_path / "run", VIEWS[0])
    ours, theirs = comparison.ours(), comparison.to_ours(comparison.lightly())
    run.close()
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_parts_of_a_step_are_less_than_the_step(shards, tmp_path):
    run = Run(make_job(CASES["byol"], SMALL, shards, tmp_path / "run"), SMALL)
    parts, batch = Parts(run), next(run.batches)
    with parts.watched():
        seconds = training.clock(lambda: run.take(batch), SMALL)
    run.close()
    assert all(parts.seconds[part] > 0 for part in PARTS if part != "health")
    assert parts.seconds["health"] == 0  # not measured in this step
    assert sum(parts.seconds.values()) < seconds


def test_a_small_run_writes_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("training_flops.SIDE", 64)
    small = ["--px", "30", "--batch", "4", "--rounds", "1", "--out", str(tmp_path)]
    training.main(["--only", "gsc_mim", "--rivals", "simclr", *small])
    own, ready, images = csv.DictReader((tmp_path / "training.csv").open())
    assert min(float(own[name]) for name in ("step_s", "mfu_pct", "ema_pct")) > 0
    assert ready["first_loss"]
    assert (ready["rival"], images["rival"]) == VIEWS
    with pytest.raises(ValueError, match=r"^--only: got \['nobody'\], expected some of \['simclr', .*\]\. Choose"):
        training.main(["--only", "nobody", *small])
    with pytest.raises(
        ValueError, match=r"^--clock: got cpu on cpu with --threads 2, expected one thread.*--clock wall\.$"
    ):
        training.main(["--clock", "cpu", "--threads", "2", *small])
    torch.set_num_threads(1)
