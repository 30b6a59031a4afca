"""The launcher alone, under deepspeed, and with invalid arguments."""

import shutil

import pytest
import torch
from engine.runs import DEEPSPEED, TORCHRUN, launch, losses, whole_lines, write_config
from safetensors.torch import load_file

# A ViT: in float32 a CNN's BatchNorms turn rounding into percents within three steps
# (tests/laws.py uses float64).
# eps: the gradient of a key's bias is zero except for rounding, which AdamW would turn into steps of +-lr.
VIT = (
    "backbone.name=vit_tiny_patch16_224",
    "backbone.args={patch_size: 4, embed_dim: 48, depth: 2, num_heads: 3}",
    "backbone.drop_path=0.3",  # per sample, for any number of ranks
    "train.steps=20",
    "optim.eps=1e-4",
)


def weights(run):
    folder = (run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()) / "weights.safetensors"
    return load_file(folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The configuration, and a run of it in one process."""
    path = write_config(tmp_path_factory.mktemp("pretrain"))
    assert launch(path, *VIT).returncode == 0
    return path, path.parent / "run"


def assert_equal_runs(one, two):
    assert whole_lines(one / "ledger.jsonl") == whole_lines(two / "ledger.jsonl")
    for line, other in zip(losses(one), losses(two), strict=True):
        assert other == pytest.approx(line, rel=1e-4)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_deepspeed_with_two_ranks_equals_one_process(one, tmp_path):
    path, alone = one
    two = tmp_path / "two"
    started = launch(path, *VIT, f"run.dir={two}", launcher=DEEPSPEED)
    assert started.returncode == 0, started.stdout + started.stderr
    assert_equal_runs(alone, two)
    state = (two / "checkpoints" / "step_00000020" / "state.json").read_text()
    assert '"strategy": "deepspeed"' in state
    assert '"world_size": 2' in state
    resumed = launch(path, *VIT, f"run.dir={two}", "train.steps=22", "--resume")  # one process continues the run
    assert resumed.returncode == 0
    assert "Resuming after step 20 of 22 (written by deepspeed on 2 ranks)." in resumed.stdout


@pytest.mark.slow
def test_sharded_runs_equal_one_process_and_resume_each_other(one, tmp_path):
    path, alone = one
    two = tmp_path / "two"
    started = launch(path, *VIT, f"run.dir={two}", "strategy.name=fsdp", launcher=TORCHRUN)
    assert started.returncode == 0, started.stdout + started.stderr
    assert_equal_runs(alone, two)
    exported = load_file(two / "export" / "s1" / "model.safetensors")
    assert exported.keys() == load_file(alone / "export" / "s1" / "model.safetensors").keys()
    assert all(torch.equal(value, weights(two)[f"encoders.s1.model.{name}"]) for name, value in exported.items())
    shutil.rmtree(two / "checkpoints" / "step_00000020")  # as if it had been killed after step 14
    shutil.rmtree(two / "export")
    zero3 = ("strategy.deepspeed=zero3", "--resume")
    resumed = launch(path, *VIT, f"run.dir={two}", *zero3, launcher=DEEPSPEED)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "Resuming after step 14 of 20 (written by fsdp on 2 ranks)." in resumed.stdout
    assert_equal_runs(alone, two)
    exported = load_file(two / "export" / "s1" / "model.safetensors")
    assert all(torch.equal(value, weights(two)[f"encoders.s1.model.{name}"]) for name, value in exported.items())


def test_dry_run_prints_and_writes_nothing(tmp_path, command):
    result = command("pretrain", "--config", write_config(tmp_path, samples=16), "--dry-run", "optim.lr=3e-4")
    assert result.returncode == 0
    assert "lr: 0.0003" in result.stdout
    assert "samples per epoch" in result.stdout
    assert not (tmp_path / "run").exists()


def test_mistakes_are_one_paragraph_and_status_2(tmp_path, command):
    wrong = ("train.global_batsh=8", "sensors.s2.bands=[B10]")
    result = command("pretrain", "--config", write_config(tmp_path, samples=16), *wrong)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("rspretrain pretrain: error: ")
    assert result.stderr.strip().endswith("Unknown key 'train.global_batsh'. Did you mean 'train.global_batch'?")
    assert result.stderr.count("\n") == 1
