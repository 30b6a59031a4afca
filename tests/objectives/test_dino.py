"""DINO: several ranks equal one, a slow reference from the paper, lightly's loss and center, local views, settings."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.batches import GROUPS, batch_of
from laws import check_objective
from torture import times

from objectives.short_training import scene_batch, train_30_steps
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.objectives.base import Progress
from rspretrain.objectives.dino import Dino, DinoSettings, dino_loss
from rspretrain.objectives.self_distillation import teacher_probabilities
from rspretrain.sensors import Group
from rspretrain.transforms.inputs import SensorSettings

torch.set_num_threads(1)
ensure_torchvision()
SENSORS = {
    "s1": SensorSettings(bands=("VV", "VH"), normalise="bigearthnet"),
    "s2": SensorSettings(bands=("B04", "B11", "B01", "B02"), normalise="bigearthnet"),
    "rgb": SensorSettings(bands=("R", "G", "B"), normalise="imagenet"),
}
ARGS = {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
VIT = BackboneSettings(name="vit_tiny_patch16_224", args=ARGS)
ANY_SIZE = BackboneSettings(name="vit_tiny_patch16_224", args={**ARGS, "dynamic_img_size": True})
CNN = BackboneSettings(name="test_resnet")
SMALL = {"px": 16, "hidden": 20, "bottleneck": 12, "outputs": 16}


def make(*sensors: str, backbone: BackboneSettings = VIT, **options: object) -> Dino:
    settings = DinoSettings(**{**SMALL, **options})  # type: ignore[arg-type]
    return Dino(settings, {name: SENSORS[name] for name in sensors}, backbone, GROUPS).train()


def make_changed(*sensors: str, **options: object) -> Dino:
    """An objective whose teacher and centers differ from their initial values."""
    torch.manual_seed(0)
    objective = make(*sensors, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in objective.teacher.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for center in objective.centers.buffers():
            center += 0.1 * torch.randn_like(center)
    return objective


def make_two_students() -> Dino:
    """With local views, learned lengths and a last layer that is trained from the second step on."""
    options = {"local_crops": 1, "local_px": 8, "momentum": 0.9, "norm_last_layer": False, "frozen_epochs": 1 / 3}
    return make("rgb", "s1", backbone=ANY_SIZE, **options)


@pytest.mark.slow
def test_several_ranks_equal_one() -> None:
    check_objective(make_two_students, batch_of, worlds=(2, 4)[: times(1, 2)])


def slow_loss(targets: np.ndarray, outputs: np.ndarray) -> float:
    """Caron et al. 2021, algorithm 1 and eq. 3, on probabilities [2 B K] and a student's outputs [V B K]."""
    terms = []
    for t in range(2):
        for v in range(len(outputs)):
            if v != t:
                x = outputs[v] / 0.1
                terms.append(-(targets[t] * (x - np.log(np.exp(x).sum(1, keepdims=True)))).sum(1).mean())
    return float(np.mean(terms))


@pytest.mark.parametrize("local_crops", [0, 2])
def test_equals_a_loop_written_from_the_paper(local_crops: int) -> None:
    objective = make_changed("s2", backbone=ANY_SIZE, local_crops=local_crops, local_px=8)
    batch = batch_of(np.arange(5))
    views = objective.views(batch)["s2"]
    assert [view.shape[2] for view in views] == [16, 16] + [8] * local_crops
    student, teacher, center = objective.student["s2"], objective.teacher["s2"], objective.centers["s2"]
    before = center.value.double().numpy().copy()
    with torch.no_grad():
        teacher_outputs = np.stack([teacher.head(teacher.encoder(view)).double().numpy() for view in views[:2]])
        outputs = np.stack([student.head(student.encoder(view)).double().numpy() for view in views])
    sharp = np.exp((teacher_outputs - before) / 0.04)
    expected = slow_loss(sharp / sharp.sum(2, keepdims=True), outputs)
    result = objective(batch)
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)
    assert result.metrics["loss/dino"] == result.loss
    np.testing.assert_allclose(center.value, 0.9 * before + 0.1 * teacher_outputs.mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize("num_views", [2, 5])
def test_loss_equals_lightly(num_views: int) -> None:
    from lightly.loss import DINOLoss

    torch.manual_seed(0)
    reference = DINOLoss(output_dim=16, teacher_temp=0.05)
    reference.center += torch.randn(16)
    teacher, outputs = torch.randn(2, 4, 16), torch.randn(num_views, 4, 16)
    targets = teacher_probabilities(teacher, reference.center[0, 0].clone(), 0.05)
    torch.testing.assert_close(dino_loss(targets, outputs, 0.1), reference(list(teacher), list(outputs)))


def test_steps_equal_lightly() -> None:
    from lightly.loss import DINOLoss

    objective, batch = make_changed("rgb"), batch_of(np.arange(4))
    reference = DINOLoss(output_dim=16, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=30)
    reference.center.copy_(objective.centers["rgb"].value)
    for epoch in (0, 7, 29, 40):
        objective.prepare(Progress(epoch * 10, 1000, 10))
        views = objective.views(batch)["rgb"]
        with torch.no_grad():
            teacher, student = ([net["rgb"](view) for view in views] for net in (objective.teacher, objective.student))
            expected = reference(teacher, student, epoch=epoch)
            torch.testing.assert_close(objective(batch).loss, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(objective.centers["rgb"].value, reference.center[0, 0], rtol=1e-5, atol=1e-6)


def test_closed_forms() -> None:
    even = torch.full((2, 3, 8), 1 / 8)
    assert dino_loss(even, torch.zeros(4, 3, 8), 0.1).item() == pytest.approx(math.log(8))  # uniform outputs
    one_hot = F.one_hot(torch.tensor([[0, 1, 2]] * 2), 8).float()
    assert dino_loss(one_hot, 100 * one_hot, 0.1).item() == pytest.approx(0.0, abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert dino_loss(one_hot, one_hot.bfloat16(), 0.1).dtype == torch.float32


def test_schedules() -> None:
    objective = make("rgb", frozen_epochs=1.0)
    for step, momentum, temperature, frozen in ((0, 0.996, 0.04, True), (500, 0.998, 0.07, False)):
        objective.prepare(Progress(step, 1000, 10))
        assert objective.momentum == pytest.approx(momentum)
        assert objective.teacher_temperature == pytest.approx(temperature)
        assert objective.student["rgb"].head.frozen is frozen
    objective.prepare(Progress(1000, 1000, 10))
    assert objective.momentum == 1.0


def test_students_have_gradients_teachers_none_and_frozen_prototypes_zero() -> None:
    objective = make("rgb", norm_last_layer=False)
    objective(batch_of(np.arange(4))).loss.backward()
    assert all(p.grad is not None for p in objective.student.parameters())
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    head = objective.student["rgb"].head
    assert not head.prototypes.grad.any()
    assert not head.lengths.grad.any()
    objective.prepare(Progress(10, 100, 10))
    objective(batch_of(np.arange(4))).loss.backward()
    assert head.prototypes.grad.any()


def test_views_have_the_papers_colours() -> None:
    settings = DinoSettings(px=16)
    assert [one.blur for one in (settings.first, settings.second, settings.local)] == [1.0, 0.1, 0.5]
    assert [one.solarise for one in (settings.first, settings.second, settings.local)] == [0.0, 0.2, 0.0]


def test_sensors_fusion_and_export() -> None:
    separate = make("s1", "s2")
    result = separate(batch_of(np.arange(4)))
    assert set(result.metrics) == set(separate.metric_names) >= {"loss/dino_s1", "loss/dino_s2"}
    assert separate.backbones()["s1"] is separate.teacher["s1"].encoder
    early = make("s1", "s2", fusion="early", export="student")
    assert set(early(batch_of(np.arange(4))).metrics) == set(early.metric_names)
    assert early.backbones()["s1+s2"] is early.student["s1+s2"].encoder
    assert list(early.backbones()) == list(early.inputs()) == ["s1+s2"]


def test_local_views_need_a_backbone_for_several_sizes() -> None:
    cnn = make("rgb", backbone=CNN, px=32, local_crops=2, local_px=20)
    assert cnn(batch_of(np.arange(4))).loss.isfinite()
    with pytest.raises(
        ValueError, match=r"Local views of 8 pixels and .* of 16: .* Set backbone.args.dynamic_img_size"
    ):
        make("rgb", local_crops=2, local_px=8)
    with pytest.raises(
        ValueError, match=r"patches of 8 pixels, but local_px=20 is not a multiple of 8. Set .*local_px to 16"
    ):
        make("rgb", backbone=ANY_SIZE, local_crops=2, local_px=20)


def test_30_steps_separate_scenes_without_collapse() -> None:
    torch.manual_seed(0)
    # These scenes differ in colour only, so views are not colour-augmented. With a center momentum of 0.9 the first 20
    # steps would go into the common part of all outputs, of which the center then still lacks 0.9^20 = 12 %.
    identity = {"jitter": 0, "grey": 0, "blur": 0, "solarise": 0}
    options = {
        "px": 32,
        "hidden": 64,
        "bottleneck": 32,
        "outputs": 64,
        "frozen_epochs": 0,
        "first": identity,
        "second": identity,
    }
    settings = DinoSettings.model_validate({**SMALL, **options, "momentum": 0.95, "center_momentum": 0.5})
    group = Group("rgb", "rgb", ("R", "G", "B"), "uint8", (32, 32), 1.0, "grey")
    vit = VIT.model_copy(update={"args": ARGS | {"embed_dim": 48, "depth": 2}})
    objective = Dino(settings, {"rgb": SENSORS["rgb"]}, vit, [group]).train()
    before = copy.deepcopy(objective.student)
    losses = []
    for result in train_30_steps(objective, scene_batch, 2e-3):
        losses.append(result.loss.item())
        assert result.metrics["health/feature_std"] > 0.3
        assert result.metrics["health/target_entropy"] > 0.3
    assert np.mean(losses[-3:]) < 0.8 * math.log(64)  # better than guessing, with all 64 outputs in use
    # The student has learned: the loss did not fall only because the teacher's targets became easier.
    again = copy.deepcopy(objective)
    again.student = before
    with torch.no_grad():
        assert objective(scene_batch(30)).loss < 0.75 * again(scene_batch(30)).loss
