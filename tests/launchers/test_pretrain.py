"""The launcher as a person starts it: alone, under deepspeed, and with mistakes."""

import pytest
import torch
from engine.runs import launch, losses, whole_lines, write_config
from safetensors.torch import load_file

VIT = "{patch_size: 4, embed_dim: 48, depth: 2, num_heads: 3}"


def weights(run):
    folder = (run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()) / "weights.safetensors"
    return load_file(folder)


@pytest.mark.slow
def test_deepspeed_with_two_ranks_sees_and_learns_what_one_process_does(tmp_path):
    path = write_config(tmp_path)
    # A ViT: in float32 a CNN's BatchNorms turn rounding into percents within three steps (law 4 is tried in float64).
    # eps: the gradient of a key's bias is zero but for rounding, which AdamW would turn into steps of +-lr.
    network = ("backbone.name=vit_tiny_patch16_224", f"backbone.args={VIT}", "backbone.drop_path=0.0")
    more = (*network, "train.steps=20", "optim.eps=1e-4")
    assert launch(path, *more).returncode == 0
    started = launch(path, *more, f"run.dir={tmp_path}/two", launcher=("deepspeed", "--num_accelerators", "2"))
    assert started.returncode == 0, started.stdout + started.stderr
    one, two = tmp_path / "run", tmp_path / "two"
    assert whole_lines(one / "ledger.jsonl") == whole_lines(two / "ledger.jsonl")
    for line, other in zip(losses(one), losses(two), strict=True):
        assert other == pytest.approx(line, rel=1e-4)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(two)[name], value, rtol=1e-3, atol=1e-4)
    state = (two / "checkpoints" / "step_00000020" / "state.json").read_text()
    assert '"strategy": "deepspeed"' in state
    assert '"world_size": 2' in state
    resumed = launch(path, *more, f"run.dir={two}", "train.steps=22", "--resume")  # one process goes on with it
    assert resumed.returncode == 0
    assert "Going on after step 20 of 22 (written by deepspeed on 2 ranks)." in resumed.stdout


@pytest.mark.slow
def test_dry_run_prints_and_writes_nothing(tmp_path):
    result = launch(write_config(tmp_path, samples=16), "--dry-run", "optim.lr=3e-4")
    assert result.returncode == 0
    assert "lr: 0.0003" in result.stdout
    assert "samples per epoch" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_mistakes_are_one_paragraph_and_status_2(tmp_path):
    result = launch(write_config(tmp_path, samples=16), "train.global_batsh=8", "sensors.s2.bands=[B10]")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.strip().startswith("error: ")
    assert result.stderr.strip().endswith("Unknown key 'train.global_batsh'. Did you mean 'train.global_batch'?")
    assert result.stderr.count("\n") == 1
