import pytest
import torch
from engine.runs import job, write_config
from safetensors.torch import load_file

from rspretrain.engine.trainer import train


@pytest.mark.slow
def test_exports_of_any_checkpoint(tmp_path, command):
    run = tmp_path / "run"
    train(job(write_config(tmp_path, samples=16), "train.steps=4", "train.checkpoint_every=2"), resume=False, log=print)
    result = command("export", "--run", run, "--step", 2, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    exported = load_file(tmp_path / "out" / "s1" / "model.safetensors")
    checkpoint = load_file(run / "checkpoints" / "step_00000002" / "weights.safetensors")
    assert all(any(torch.equal(value, other) for other in checkpoint.values()) for value in exported.values())
    missing = command("export", "--run", run, "--step", 3)
    assert missing.returncode == 2
    assert missing.stderr.strip().endswith("has no step 3, expected one of: 2, 4. Choose one of them.")
