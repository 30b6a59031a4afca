import pytest

from strategies.toys import Contrast

pytestmark = pytest.mark.slow


def numbers(only_trainable=False):
    return sum(one.numel() for one in Contrast().parameters() if one.requires_grad or not only_trainable)


def test_stage_3_shards_students_teachers_and_optimizer(found):
    held = [rank["deepspeed3"]["held"] for rank in found]
    assert sum(one["parameters"] for one in held) == numbers()
    assert [one["parameters"] for one in held] == pytest.approx([numbers() / 2] * 2, rel=0.02)
    assert [one["stored"] for one in held] == pytest.approx([numbers() / 2] * 2, rel=0.02)
    assert [one["state"] for one in held] == pytest.approx([numbers(True)] * 2, rel=0.02)  # two tensors per parameter


def test_only_small_parameters_of_students_stay_gathered(found):
    assert found[0]["deepspeed3"]["held"]["gathered"] == pytest.approx(numbers(True), abs=8)  # with padding


@pytest.mark.parametrize("stage", [1, 2])
def test_stages_1_and_2_shard_the_optimizer(found, stage):
    held = found[0][f"deepspeed{stage}"]["held"]
    assert held["parameters"] == numbers()
    assert held["state"] == pytest.approx(numbers(True), rel=0.02)
