"""What self-distillation shares: lightly's losses at their words, centers by hand, temperatures, entropy of answers."""

import math

import numpy as np
import pytest
import torch
from gloo import run_ranks

from rspretrain.objectives.self_distillation import (
    TEACHER_HEALTH,
    Center,
    cross_entropy,
    means_over_ranks,
    soften,
    teacher_health,
    warm_temperature,
)
from rspretrain.world import rank

torch.set_num_threads(1)


def test_with_crossed_views_it_is_lightlys_dino_loss() -> None:
    from lightly.loss import DINOLoss

    torch.manual_seed(0)
    teacher, student = torch.randn(2, 2, 5, 16).unbind()  # [V B K]
    theirs = DINOLoss(output_dim=16, teacher_temp=0.05, student_temp=0.1)
    theirs.center.copy_(torch.randn(16))
    targets = soften(teacher, theirs.center.clone()[0, 0], 0.05)
    ours = cross_entropy(targets.flip(0).flatten(0, 1), student.flatten(0, 1), 0.1).mean()
    torch.testing.assert_close(ours, theirs(list(teacher), list(student)), rtol=1e-6, atol=1e-6)


def test_centers_follow_lightlys() -> None:
    from lightly.models.modules.center import Center as Theirs

    torch.manual_seed(0)
    ours, theirs = Center(16, momentum=0.9), Theirs((1, 16), momentum=0.9)
    for outputs in torch.randn(3, 8, 16):
        ours.update_(means_over_ranks([outputs])[0])
        theirs.update(outputs)
    torch.testing.assert_close(ours.value, theirs.value[0])
    assert list(ours.state_dict()) == ["value"]


def test_the_closed_form_of_a_sure_answer() -> None:
    targets = soften(torch.tensor([[0.0, 100.0]]), torch.zeros(2), 0.1)
    assert targets.tolist() == [[0.0, 1.0]]
    assert cross_entropy(targets, torch.zeros(1, 2), 0.1).item() == pytest.approx(math.log(2))
    assert soften(torch.tensor([[3.0, 5.0]]), torch.tensor([3.0, 5.0]), 0.04).tolist() == [[0.5, 0.5]]


def test_float32_under_autocast() -> None:
    outputs = torch.randn(4, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        targets = soften(outputs, torch.zeros(8), 0.04)
        assert targets.dtype == cross_entropy(targets, outputs, 0.1).dtype == torch.float32


def uneven() -> torch.Tensor:
    rows = torch.arange(10.0)[:, None].expand(10, 3)
    return means_over_ranks([rows[:7] if rank() == 0 else rows[7:], rows[:2] + rank()])


def test_means_weigh_rows_not_ranks() -> None:
    for means in run_ranks(2, uneven):
        assert means.tolist() == [[4.5] * 3, [1.0] * 3]


def test_temperatures_are_ibots_by_whole_epochs() -> None:
    table = [*np.linspace(0.04, 0.07, 30), 0.07, 0.07]
    for epoch, want in enumerate(table):
        for within in (0.0, 0.99):
            assert warm_temperature(epoch + within, 30, 0.04, 0.07) == pytest.approx(want)
    assert warm_temperature(0, 0, 0.04, 0.07) == 0.07
    assert warm_temperature(0, 1, 0.04, 0.07) == 0.04


def test_what_is_watched_of_a_teacher() -> None:
    center = Center(8, 0.9)
    sure = teacher_health(torch.eye(8), center, 0.04)
    assert {name: value.item() for name, value in sure.items()} == pytest.approx(
        {"health/center_entropy": 1.0, "health/target_entropy": 1.0, "health/target_information": math.log(8)}
    )
    one = teacher_health(torch.eye(8)[[3, 3, 3]], center, 0.04)
    assert [one[name].item() for name in TEACHER_HEALTH] == pytest.approx([1.0, 0.0, 0.0])
