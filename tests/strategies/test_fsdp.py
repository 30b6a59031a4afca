import pytest
import torch

from strategies.toys import Contrast, difference

pytestmark = pytest.mark.slow
ALL_NUMBERS = sum(parameter.numel() for parameter in Contrast().parameters())
TRAINABLE = sum(parameter.numel() for parameter in Contrast().parameters() if parameter.requires_grad)


def test_students_teachers_and_optimizer_are_sharded(found):
    held = [rank["fsdp0"]["held"] for rank in found]
    assert [one["parameters"] for one in held] == pytest.approx([ALL_NUMBERS / 2] * 2, rel=0.03)
    assert [one["state"] for one in held] == pytest.approx([TRAINABLE] * 2, rel=0.03)  # two tensors per parameter
    assert sum(one["parameters"] for one in held) == ALL_NUMBERS
    assert sum(one["state"] for one in held) == 2 * TRAINABLE
    assert [one["stored"] for one in held] == pytest.approx([ALL_NUMBERS / 2] * 2, rel=0.03)
    whole = found[0]["ddp0"]["held"]
    assert (whole["parameters"], whole["state"]) == (ALL_NUMBERS, 2 * TRAINABLE)


@pytest.mark.parametrize("name", ["fsdp0", "deepspeed3"])
def test_shards_are_float32_and_teachers_move_in_bf16(found, name):
    held = found[0]["options"][f"{name} bf16 held"]
    assert held["dtypes"] == {torch.float32}
    assert held["parameters"] == found[0][name]["held"]["parameters"]
    assert held["drift"] > 0


def test_lars_uses_the_norms_of_whole_layers(found):
    ours, theirs = (found[0]["options"][f"{name} lars"] for name in ("fsdp", "ddp"))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert difference(ours[1], theirs[1]) < 1e-6
    assert difference(ours[2], theirs[2]) < 1e-5
