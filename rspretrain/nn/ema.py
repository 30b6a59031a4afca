"""EMA teachers: networks that follow a student by averaging its parameters, never by a gradient (methods.md B.2, B.4).

Parameters only. Running statistics of norms are the teacher's own, from its own forwards in train mode. The update is
elementwise and in float32, so a rank may do it on whatever part of the tensors it holds (design.md D6).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import silence_drops_

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TeacherPair:
    """A student and the teacher that follows it: of one structure, parameters matched by name."""

    student: nn.Module
    teacher: nn.Module


def make_teacher(student: Network) -> Network:
    """A copy of the student as it is: without gradients, dropout and stochastic depth, so that its targets are sure."""
    teacher = copy.deepcopy(student).requires_grad_(False)
    silence_drops_(teacher)
    return teacher


def matched_parameters(pairs: Sequence[TeacherPair]) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(student's, teacher's) parameter of every name that the teachers have; what only a student has is left alone.

    ValueError where a teacher's parameter has no counterpart of its shape, takes gradients, or is in two pairs.
    """
    matched: list[tuple[nn.Parameter, nn.Parameter]] = []
    for pair in pairs:
        students = dict(pair.student.named_parameters())
        for name, teacher in pair.teacher.named_parameters():
            student = students.get(name)
            if student is None or student.shape != teacher.shape:
                found = "none of this name" if student is None else f"one of shape {list(student.shape)}"
                raise ValueError(
                    f"Teacher parameter {name!r} has shape {list(teacher.shape)}, and its student has {found}. Make "
                    "the teacher with make_teacher(student), after the student is complete."
                )
            if teacher.requires_grad:
                raise ValueError(
                    f"Teacher parameter {name!r} takes gradients, expected none: it follows its student. Make the "
                    "teacher with make_teacher(student)."
                )
            matched.append((student, teacher))
    if len({id(teacher) for _, teacher in matched}) < len(matched):
        raise ValueError("A teacher's parameter is in two pairs, so it would move twice a step. List every part once.")
    return matched


@torch.no_grad()
def follow_(teachers: list[Tensor], students: list[Tensor], momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for tensors or equal parts of them, float32 or better.

    As teacher + (1 - momentum) * (student - teacher): one pass, and nothing moves where both are equal.
    """
    if teachers:
        torch._foreach_lerp_(teachers, students, 1.0 - momentum)


@torch.no_grad()
def drift_squares(teachers: list[Tensor], students: list[Tensor]) -> Tensor:
    """[2] float64: |teacher - student|^2 and |student|^2, sums over all elements; sums over ranks where they are parts.

    The root of their quotient is the drift: how far teachers are from their students, relative to the students.
    """
    apart = torch.stack([torch.dist(t, s) for t, s in zip(teachers, students, strict=True)])
    length = torch.stack([torch.linalg.vector_norm(s) for s in students])
    return torch.stack([apart, length]).double().square().sum(dim=1)
