"""EMA teachers: networks whose parameters are a moving average of a student's, without gradients.

Only parameters are averaged. The teacher computes the running statistics of its norms in its own forwards, in train
mode. The update is elementwise and in float32, so each rank can apply it to its part of sharded parameters
(docs/methods.md, EMA teachers).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from rspretrain.nn.backbones import disable_dropout_

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class TeacherPair:
    """A student and its EMA teacher: the same structure, parameters paired by name."""

    student: nn.Module
    teacher: nn.Module


def make_teacher(student: Network) -> Network:
    """A copy of the student without gradients, dropout and stochastic depth, so that its targets are deterministic."""
    teacher = copy.deepcopy(student).requires_grad_(False)
    disable_dropout_(teacher)
    return teacher


def paired_parameters(pairs: Sequence[TeacherPair]) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(student parameter, teacher parameter) for every name in the teachers; student-only parameters are skipped.

    ValueError if a teacher parameter has no student parameter of its shape, requires gradients, or is in two pairs.
    """
    found: list[tuple[nn.Parameter, nn.Parameter]] = []
    for pair in pairs:
        students = dict(pair.student.named_parameters())
        for name, teacher in pair.teacher.named_parameters():
            student = students.get(name)
            if student is None or student.shape != teacher.shape:
                other = "none of this name" if student is None else f"one of shape {list(student.shape)}"
                raise ValueError(
                    f"Teacher parameter {name!r} has shape {list(teacher.shape)}, but the student has {other}. Create "
                    "the teacher with make_teacher(student), after the student is complete."
                )
            if teacher.requires_grad:
                raise ValueError(
                    f"Teacher parameter {name!r} requires gradients, expected none: only the EMA changes it. Create "
                    "the teacher with make_teacher(student)."
                )
            found.append((student, teacher))
    if len({id(teacher) for _, teacher in found}) < len(found):
        raise ValueError(
            "A teacher parameter is in two pairs, expected one pair per parameter, or it is updated twice per step. "
            "List every module once."
        )
    return found


@torch.no_grad()
def ema_update_(teachers: list[Tensor], students: list[Tensor], momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, for tensors or equal shards of them, float32 or better.

    Computed as teacher + (1 - momentum) * (student - teacher): one pass, and exact where both are equal.
    """
    if teachers:
        torch._foreach_lerp_(teachers, students, 1.0 - momentum)


@torch.no_grad()
def drift_squares(teachers: list[Tensor], students: list[Tensor]) -> Tensor:
    """[2] float64: |teacher - student|^2 and |student|^2 over all elements; add them over ranks if tensors are sharded.

    The root of their ratio is the drift, the distance between teachers and students relative to the students' norm.
    """
    distances = torch.stack([torch.dist(t, s) for t, s in zip(teachers, students, strict=True)])
    norms = torch.stack([torch.linalg.vector_norm(s) for s in students])
    return torch.stack([distances, norms]).double().square().sum(dim=1)
