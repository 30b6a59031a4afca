import pytest
import torch
from torch import nn

from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.ema import TeacherPair, drift_squares, ema_update_, make_teacher, paired_parameters

torch.set_num_threads(1)


def pair() -> TeacherPair:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    return TeacherPair(student, make_teacher(student))


def moved() -> TeacherPair:
    one = pair()
    with torch.no_grad():
        for parameter in one.student.parameters():
            parameter += 1.0
    return one


def local(one: TeacherPair) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    pairs = paired_parameters([one])
    return [teacher.detach() for _, teacher in pairs], [student.detach() for student, _ in pairs]


def test_a_teacher_is_a_copy_without_gradients_and_dropout() -> None:
    one = pair()
    assert all(torch.equal(a, b) for a, b in zip(one.student.parameters(), one.teacher.parameters(), strict=True))
    assert not any(a is b for a, b in zip(one.student.parameters(), one.teacher.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in one.teacher.parameters())
    x = torch.randn(16, 4)
    assert torch.equal(one.teacher.train()(x), one.teacher.train()(x))
    assert not torch.equal(one.student.train()(x), one.student.train()(x))


def test_a_teacher_draws_no_random_numbers() -> None:
    args = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 3, "proj_drop_rate": 0.5, "attn_drop_rate": 0.5}
    settings = BackboneSettings(name="vit_tiny_patch16_224", drop_path=0.9, args=args)
    student = create_backbone(settings, "s1", ("VV",), 8).train()
    teacher, x, state = make_teacher(student).train(), torch.randn(8, 1, 8, 8), torch.get_rng_state()
    assert torch.equal(teacher(x), teacher(x))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(student(x), student(x))


def test_the_update_is_one_minus_momentum_of_the_difference() -> None:
    one = moved()
    before = [teacher.clone() for teacher in local(one)[0]]
    ema_update_(*local(one), 0.9)
    for old, new in zip(before, local(one)[0], strict=True):
        torch.testing.assert_close(new - old, torch.full_like(old, 0.1), rtol=1e-6, atol=1e-6)


def test_momentum_one_keeps_and_momentum_zero_copies() -> None:
    one = moved()
    before = [teacher.clone() for teacher in local(one)[0]]
    ema_update_(*local(one), 1.0)
    assert all(torch.equal(*both) for both in zip(before, local(one)[0], strict=True))
    ema_update_(*local(one), 0.0)
    assert all(torch.equal(*both) for both in zip(*local(one), strict=True))


def test_buffers_are_not_averaged() -> None:
    one = pair()
    one.student.train()(torch.randn(16, 4))
    ema_update_(*local(one), 0.5)
    assert torch.equal(one.teacher[1].running_mean, torch.zeros(8))  # type: ignore[index]
    assert not torch.equal(one.student[1].running_mean, torch.zeros(8))  # type: ignore[index]


def test_drift_is_relative_to_the_student() -> None:
    one = moved()
    distance, norm = drift_squares(*local(one)).tolist()
    students = torch.cat([student.flatten() for student in local(one)[1]]).double()
    assert distance == pytest.approx(students.numel(), rel=1e-6)
    assert norm == pytest.approx(students.square().sum().item(), rel=1e-6)


def test_student_only_parameters_are_skipped() -> None:
    one = pair()
    one.student.register_parameter("mask_token", nn.Parameter(torch.zeros(4)))
    assert len(paired_parameters([one])) == len(list(one.teacher.parameters())) == 6


def test_pairs_that_do_not_match() -> None:
    one = pair()
    one.teacher.register_parameter("extra", nn.Parameter(torch.zeros(4), requires_grad=False))
    with pytest.raises(ValueError, match=r"Teacher parameter 'extra' has shape \[4\], but the student has none"):
        paired_parameters([one])
    other = pair()
    other.student[3] = nn.Linear(8, 3)  # type: ignore[index]
    with pytest.raises(ValueError, match=r"'3.weight' has shape \[2, 8\], but the student has one of shape \[3, 8\]"):
        paired_parameters([other])
    other = pair()
    other.teacher.requires_grad_(True)
    with pytest.raises(
        ValueError, match=r"'0.weight' requires gradients, expected none: only the EMA changes it. Create"
    ):
        paired_parameters([other])
    other = pair()
    with pytest.raises(ValueError, match=r"in two pairs, expected one pair per parameter.* List every module once"):
        paired_parameters([other, TeacherPair(other.student, other.teacher)])
