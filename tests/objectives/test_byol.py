"""BYOL: several ranks equal one, a slow reference written from the paper, lightly's loss and schedule, settings."""

import math

import numpy as np
import pytest
import torch
from fakes.batches import GROUPS, batch_of
from laws import check_objective
from numpy.typing import NDArray

from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.ema import ema_update_, paired_parameters
from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.objectives.base import Progress
from rspretrain.objectives.byol import Byol, ByolSettings, FirstColour, SecondColour, cosine_distance
from rspretrain.transforms.inputs import SensorSettings

torch.set_num_threads(1)
ensure_torchvision()
SENSORS = {
    "s1": SensorSettings(bands=("VV", "VH"), normalise="bigearthnet"),
    "s2": SensorSettings(bands=("B04", "B11", "B01", "B02"), normalise="bigearthnet"),
    "rgb": SensorSettings(bands=("R", "G", "B"), normalise="imagenet"),
}
VIT = BackboneSettings(name="vit_tiny_patch16_224", args={"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2})


def make(*sensors: str, backbone: BackboneSettings = VIT, **options: object) -> Byol:
    settings = ByolSettings(**{"px": 16, "hidden": 32, "projection": 16, **options})  # type: ignore[arg-type]
    return Byol(settings, {name: SENSORS[name] for name in sensors}, backbone, GROUPS)


def make_two_students() -> Byol:
    return make("rgb", "s1", backbone=BackboneSettings(name="test_resnet"), px=32, momentum=0.9)


@pytest.mark.slow
def test_several_ranks_equal_one() -> None:
    check_objective(make_two_students, batch_of, worlds=(2, 4))


def slow_distance(p: NDArray[np.float64], z: NDArray[np.float64]) -> float:
    """Grill et al. 2020, eq. 2, one row after the other."""
    rows = [np.sum((a / np.sqrt(a @ a) - b / np.sqrt(b @ b)) ** 2) for a, b in zip(p, z, strict=True)]
    return float(np.mean(rows))


def slow_head(x: NDArray[np.float64], head: torch.nn.Sequential) -> NDArray[np.float64]:
    """Linear, BatchNorm with the batch's own statistics, ReLU, Linear without bias; in numpy."""
    first, norm, _, last = head
    w1, gamma, beta, w2 = (t.detach().double().numpy() for t in (first.weight, norm.weight, norm.bias, last.weight))
    hidden = x @ w1.T
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + norm.eps) * gamma + beta
    return np.maximum(hidden, 0) @ w2.T


def test_equals_a_loop_written_from_the_paper() -> None:
    torch.manual_seed(0)
    objective, batch = make("s2").train(), batch_of(np.arange(6))
    with torch.no_grad():
        for parameter in objective.teacher.parameters():  # a teacher that differs from the student
            parameter += 0.05 * torch.randn_like(parameter)
        views = objective.views(batch)["s2"]
        student, teacher = objective.student["s2"], objective.teacher["s2"]
        features = [[net.encoder(view).double().numpy() for view in views] for net in (student, teacher)]
    predicted = [slow_head(slow_head(x, student.projector), objective.predictor["s2"]) for x in features[0]]
    targets = [slow_head(x, teacher.projector) for x in features[1]]
    expected = slow_distance(predicted[0], targets[1]) + slow_distance(predicted[1], targets[0])
    result = objective(batch)
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)
    assert result.metrics["loss/byol"] == result.loss


def test_one_direction_equals_lightly() -> None:
    from lightly.loss import NegativeCosineSimilarity

    torch.manual_seed(0)
    p, z = torch.randn(2, 32, 64).unbind()
    torch.testing.assert_close(
        cosine_distance(p, 3 * z), 2 + 2 * NegativeCosineSimilarity()(p, z), rtol=1e-6, atol=1e-6
    )


def test_closed_forms() -> None:
    p = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    assert cosine_distance(p, 5 * p) == 0.0
    assert cosine_distance(p, -p).item() == pytest.approx(4.0)
    assert cosine_distance(p, p.flip(1)).item() == pytest.approx(2.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert cosine_distance(p, p.flip(1)).dtype == torch.float32


def test_identical_views_without_predictor_have_zero_loss() -> None:
    identity = {"strength": 0, "blur": 0, "solarise": 0, "grey": 0, "band_drop": 0, "jitter": 0}
    objective = make(
        "rgb", scale=(1.0, 1.0), symmetry="none", first=FirstColour(**identity), second=SecondColour(**identity)
    )
    objective.train().predictor["rgb"] = torch.nn.Identity()
    batch = batch_of(np.arange(8))
    view = objective.views(batch)["rgb"][0]
    objective.views.forward = lambda batch: {"rgb": [view, view]}  # type: ignore[method-assign]
    assert objective(batch).loss.item() == pytest.approx(0.0, abs=1e-10)


def test_momentum_rises_to_one_by_a_half_cosine() -> None:
    from lightly.utils.scheduler import cosine_schedule

    objective = make("s1")
    found = []
    for step in (0, 250, 500, 750, 999):
        objective.prepare(Progress(step, 1000, 10))
        assert objective.momentum is not None
        assert objective.momentum == pytest.approx(1 - (1 - 0.996) * (1 + math.cos(math.pi * step / 1000)) / 2)
        assert objective.momentum == pytest.approx(cosine_schedule(step, 1001, 0.996, 1.0))
        found.append(objective.momentum)
    assert (found[0], found[2]) == (0.996, pytest.approx((0.996 + 1) / 2))
    objective.prepare(Progress(1000, 1000, 10))
    assert found[-1] < objective.momentum == 1.0


def test_the_teacher_has_no_gradients_and_its_own_norm_statistics() -> None:
    torch.manual_seed(0)
    objective = make("rgb", backbone=BackboneSettings(name="test_resnet"), px=32).train()
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    for step in range(2):
        objective.prepare(Progress(step, 10, 10))
        objective(batch_of(np.arange(8) + 8 * step)).loss.backward()
        optimizer.step()
        pairs = paired_parameters(objective.teachers())
        ema_update_([t.detach() for _, t in pairs], [s.detach() for s, _ in pairs], objective.momentum or 0)
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    assert all(p.grad is not None for p in (*objective.student.parameters(), *objective.predictor.parameters()))
    ours, theirs = (dict(net.named_buffers()) for net in (objective.student, objective.teacher))
    name = "rgb.encoder.model.bn1.running_mean"
    assert not torch.equal(ours[name], theirs[name])
    assert not torch.equal(theirs[name], torch.zeros_like(theirs[name]))
    assert ours["rgb.encoder.model.bn1.num_batches_tracked"] == 4  # one forward per view


def test_heads_have_the_papers_layers() -> None:
    objective = make("s2", hidden=4096, projection=256)
    shapes = {name: tuple(p.shape) for name, p in objective.student["s2"].projector.named_parameters()}
    assert shapes == {"0.weight": (4096, 24), "1.weight": (4096,), "1.bias": (4096,), "3.weight": (256, 4096)}
    assert objective.predictor["s2"][0].weight.shape == (4096, 256)


def test_views_have_the_papers_colours() -> None:
    settings = ByolSettings(px=16)
    assert (settings.first.blur, settings.first.solarise) == (1.0, 0.0)
    assert (settings.second.blur, settings.second.solarise) == (0.1, 0.2)
    for one in (settings.first, settings.second):
        reach = [one.strength * limit for limit in (one.brightness, one.contrast, one.saturation, one.hue)]
        assert reach == pytest.approx([0.4, 0.4, 0.2, 0.1])
        assert (one.jitter, one.grey) == (0.8, 0.2)
    changed = ByolSettings.model_validate({"px": 16, "second": {"blur": 0.3}})
    assert (changed.second.blur, changed.second.solarise) == (0.3, 0.2)


def test_one_student_per_sensor_with_the_mean_of_their_losses() -> None:
    torch.manual_seed(0)
    objective = make("s1", "s2").train()
    result = objective(batch_of(np.arange(6)))
    assert set(result.metrics) == set(objective.metric_names) >= {"loss/byol_s1", "loss/byol_s2"}
    own = [result.metrics[f"loss/byol_{name}"].item() for name in ("s1", "s2")]
    assert result.loss.item() == pytest.approx(sum(own) / 2)
    assert {name: one.bands for name, one in objective.backbones().items()} == {
        "s1": ("VV", "VH"),
        "s2": ("B04", "B11", "B01", "B02"),
    }


def test_early_fusion_has_one_student_for_all_bands() -> None:
    objective = make("s1", "s2", fusion="early").train()
    (backbone,) = objective.backbones().values()
    assert (backbone.sensor, backbone.bands) == ("s1+s2", ("VV", "VH", "B04", "B11", "B01", "B02"))
    assert list(objective.inputs()) == list(objective.backbones()) == ["s1+s2"]
    assert set(objective(batch_of(np.arange(4))).metrics) == set(objective.metric_names)


def test_the_student_is_exported_by_default() -> None:
    assert make("s1").backbones()["s1"].model.patch_embed.proj.weight.requires_grad
    teacher = make("s1", export="teacher")
    assert teacher.backbones()["s1"] is teacher.teacher["s1"].encoder
