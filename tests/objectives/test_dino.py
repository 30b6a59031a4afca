"""DINO: law 4, a slow reference written from the paper, lightly's loss and center, schedules, local views, settings."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.batches import GROUPS, batch_of
from laws import check_objective
from torture import times

from objectives.lessons import scene_batch, thirty_steps
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.objectives.base import Progress
from rspretrain.objectives.dino import Dino, DinoSettings, distil
from rspretrain.objectives.self_distillation import soften
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


def make_own_way(*sensors: str, **options: object) -> Dino:
    """One whose teacher and centers are no longer what they were at the start."""
    torch.manual_seed(0)
    objective = make(*sensors, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in objective.teacher.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        for center in objective.centers.buffers():
            center += 0.1 * torch.randn_like(center)
    return objective


def make_two_students() -> Dino:
    """With local views, learned lengths and a last layer that moves from the second step on."""
    options = {"local_crops": 1, "local_px": 8, "momentum": 0.9, "norm_last_layer": False, "frozen_epochs": 1 / 3}
    return make("rgb", "s1", backbone=ANY_SIZE, **options)


@pytest.mark.slow
def test_law_4() -> None:
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
    objective = make_own_way("s2", backbone=ANY_SIZE, local_crops=local_crops, local_px=8)
    batch = batch_of(np.arange(5))
    views = objective.views(batch)["s2"]
    assert [view.shape[2] for view in views] == [16, 16] + [8] * local_crops
    student, teacher, center = objective.student["s2"], objective.teacher["s2"], objective.centers["s2"]
    before = center.value.double().numpy().copy()
    with torch.no_grad():
        taught = np.stack([teacher.head(teacher.encoder(view)).double().numpy() for view in views[:2]])
        outputs = np.stack([student.head(student.encoder(view)).double().numpy() for view in views])
    sharp = np.exp((taught - before) / 0.04)
    want = slow_loss(sharp / sharp.sum(2, keepdims=True), outputs)
    result = objective(batch)
    assert result.loss.item() == pytest.approx(want, rel=1e-5)
    assert result.metrics["loss/dino"] == result.loss
    np.testing.assert_allclose(center.value, 0.9 * before + 0.1 * taught.mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize("num_views", [2, 5])
def test_loss_and_center_are_lightlys(num_views: int) -> None:
    from lightly.loss import DINOLoss

    torch.manual_seed(0)
    reference = DINOLoss(output_dim=16, teacher_temp=0.05)
    reference.center += torch.randn(16)
    taught, outputs = torch.randn(2, 4, 16), torch.randn(num_views, 4, 16)
    targets = soften(taught, reference.center[0, 0].clone(), 0.05)
    torch.testing.assert_close(distil(targets, outputs, 0.1), reference(list(taught), list(outputs)))


def test_a_step_of_the_whole_objective_is_lightlys() -> None:
    from lightly.loss import DINOLoss

    objective, batch = make_own_way("rgb"), batch_of(np.arange(4))
    reference = DINOLoss(output_dim=16, warmup_teacher_temp=0.04, teacher_temp=0.07, warmup_teacher_temp_epochs=30)
    reference.center.copy_(objective.centers["rgb"].value)
    for epoch in (0, 7, 29, 40):
        objective.prepare(Progress(epoch * 10, 1000, 10))
        views = objective.views(batch)["rgb"]
        with torch.no_grad():
            taught, learned = ([net["rgb"](view) for view in views] for net in (objective.teacher, objective.student))
            want = reference(taught, learned, epoch=epoch)
            torch.testing.assert_close(objective(batch).loss, want, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(objective.centers["rgb"].value, reference.center[0, 0], rtol=1e-5, atol=1e-6)


def test_closed_forms() -> None:
    even = torch.full((2, 3, 8), 1 / 8)
    assert distil(even, torch.zeros(4, 3, 8), 0.1).item() == pytest.approx(math.log(8))  # knows nothing
    sure = F.one_hot(torch.tensor([[0, 1, 2]] * 2), 8).float()
    assert distil(sure, 100 * sure, 0.1).item() == pytest.approx(0.0, abs=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert distil(sure, sure.bfloat16(), 0.1).dtype == torch.float32


def test_what_the_step_says() -> None:
    objective = make("rgb", frozen_epochs=1.0)
    for step, momentum, temperature, frozen in ((0, 0.996, 0.04, True), (500, 0.998, 0.07, False)):
        objective.prepare(Progress(step, 1000, 10))
        assert objective.momentum == pytest.approx(momentum)
        assert objective.teacher_temperature == pytest.approx(temperature)
        assert objective.student["rgb"].head.frozen is frozen
    objective.prepare(Progress(1000, 1000, 10))
    assert objective.momentum == 1.0


def test_gradients_reach_every_student_and_no_teacher_and_frozen_prototypes_stay() -> None:
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
    apart = make("s1", "s2")
    result = apart(batch_of(np.arange(4)))
    assert set(result.metrics) == set(apart.metric_names) >= {"loss/dino_s1", "loss/dino_s2"}
    assert apart.backbones()["s1"] is apart.teacher["s1"].encoder
    early = make("s1", "s2", fusion="early", export="student")
    assert set(early(batch_of(np.arange(4))).metrics) == set(early.metric_names)
    assert early.backbones()["s1+s2"] is early.student["s1+s2"].encoder
    assert list(early.backbones()) == list(early.inputs()) == ["s1+s2"]


def test_cnns_take_local_views_of_any_size_and_vits_say_what_they_need() -> None:
    cnn = make("rgb", backbone=CNN, px=32, local_crops=2, local_px=20)
    assert cnn(batch_of(np.arange(4))).loss.isfinite()
    with pytest.raises(
        ValueError, match=r"Local views of 8 pixels beside .* of 16: .* Set backbone.args.dynamic_img_size"
    ):
        make("rgb", local_crops=2, local_px=8)
    with pytest.raises(
        ValueError, match=r"patches of 8 pixels, and local_px=20 is no multiple of 8. Set .*local_px to 16"
    ):
        make("rgb", backbone=ANY_SIZE, local_crops=2, local_px=20)


def test_30_steps_tell_scenes_apart_without_collapse() -> None:
    torch.manual_seed(0)
    # Colours are what these scenes differ in, so views keep them. With the center's momentum at 0.9, the first 20 steps
    # go to what all answers have in common: it is 0.9^20 = 12 % short of them.
    still = {"jitter": 0, "grey": 0, "blur": 0, "solarise": 0}
    options = {
        "px": 32,
        "hidden": 64,
        "bottleneck": 32,
        "outputs": 64,
        "frozen_epochs": 0,
        "first": still,
        "second": still,
    }
    settings = DinoSettings.model_validate({**SMALL, **options, "momentum": 0.95, "center_momentum": 0.5})
    group = Group("rgb", "rgb", ("R", "G", "B"), "uint8", (32, 32), 1.0, "grey")
    vit = VIT.model_copy(update={"args": ARGS | {"embed_dim": 48, "depth": 2}})
    objective = Dino(settings, {"rgb": SENSORS["rgb"]}, vit, [group]).train()
    before = copy.deepcopy(objective.student)
    losses = []
    for result in thirty_steps(objective, scene_batch, 2e-3):
        losses.append(result.loss.item())
        assert result.metrics["health/feature_std"] > 0.3
        assert result.metrics["health/target_entropy"] > 0.3
    assert np.mean(losses[-3:]) < 0.8 * math.log(64)  # better than to know nothing, while all 64 answers are in use
    # It is the student that learned, not only the teacher whose answers became easier.
    again = copy.deepcopy(objective)
    again.student = before
    with torch.no_grad():
        assert objective(scene_batch(30)).loss < 0.75 * again(scene_batch(30)).loss
