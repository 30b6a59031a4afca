"""Self-distillation: losses and centers equal lightly's, temperatures equal iBOT's, health metrics of targets."""

import math

import numpy as np
import pytest
import torch
from gloo import run_ranks

from rspretrain.objectives.self_distillation import (
    TEACHER_HEALTH,
    Center,
    cross_entropy,
    global_means,
    teacher_health,
    teacher_probabilities,
    warmup_temperature,
)
from rspretrain.world import rank

torch.set_num_threads(1)


def test_cross_entropy_of_crossed_views_equals_lightlys_dino_loss() -> None:
    from lightly.loss import DINOLoss

    torch.manual_seed(0)
    teacher, student = torch.randn(2, 2, 5, 16).unbind()  # [V B K]
    theirs = DINOLoss(output_dim=16, teacher_temp=0.05, student_temp=0.1)
    theirs.center.copy_(torch.randn(16))
    targets = teacher_probabilities(teacher, theirs.center.clone()[0, 0], 0.05)
    ours = cross_entropy(targets.flip(0).flatten(0, 1), student.flatten(0, 1), 0.1).mean()
    torch.testing.assert_close(ours, theirs(list(teacher), list(student)), rtol=1e-6, atol=1e-6)


def test_centers_equal_lightly() -> None:
    from lightly.models.modules.center import Center as Theirs

    torch.manual_seed(0)
    ours, theirs = Center(16, momentum=0.9), Theirs((1, 16), momentum=0.9)
    for outputs in torch.randn(3, 8, 16):
        ours.update_(global_means([outputs])[0])
        theirs.update(outputs)
    torch.testing.assert_close(ours.value, theirs.value[0])
    assert list(ours.state_dict()) == ["value"]


def test_closed_form_of_one_hot_targets() -> None:
    targets = teacher_probabilities(torch.tensor([[0.0, 100.0]]), torch.zeros(2), 0.1)
    assert targets.tolist() == [[0.0, 1.0]]
    assert cross_entropy(targets, torch.zeros(1, 2), 0.1).item() == pytest.approx(math.log(2))
    assert teacher_probabilities(torch.tensor([[3.0, 5.0]]), torch.tensor([3.0, 5.0]), 0.04).tolist() == [[0.5, 0.5]]


def test_float32_under_autocast() -> None:
    outputs = torch.randn(4, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        targets = teacher_probabilities(outputs, torch.zeros(8), 0.04)
        assert targets.dtype == cross_entropy(targets, outputs, 0.1).dtype == torch.float32


def uneven() -> torch.Tensor:
    rows = torch.arange(10.0)[:, None].expand(10, 3)
    return global_means([rows[:7] if rank() == 0 else rows[7:], rows[:2] + rank()])


def test_means_weight_rows_not_ranks() -> None:
    for means in run_ranks(2, uneven):
        assert means.tolist() == [[4.5] * 3, [1.0] * 3]


def test_temperatures_equal_ibot_per_epoch() -> None:
    table = [*np.linspace(0.04, 0.07, 30), 0.07, 0.07]
    for epoch, expected in enumerate(table):
        for within in (0.0, 0.99):
            assert warmup_temperature(epoch + within, 30, 0.04, 0.07) == pytest.approx(expected)
    assert warmup_temperature(0, 0, 0.04, 0.07) == 0.07
    assert warmup_temperature(0, 1, 0.04, 0.07) == 0.04


def test_health_metrics_of_targets() -> None:
    center = Center(8, 0.9)
    one_hot = teacher_health(torch.eye(8), center, 0.04)
    assert {name: value.item() for name, value in one_hot.items()} == pytest.approx(
        {"health/center_entropy": 1.0, "health/target_entropy": 1.0, "health/target_information": math.log(8)}
    )
    one = teacher_health(torch.eye(8)[[3, 3, 3]], center, 0.04)
    assert [one[name].item() for name in TEACHER_HEALTH] == pytest.approx([1.0, 0.0, 0.0])
