"""GSC-MIM: several ranks equal one, a slow reference from the paper, lightly's losses, centers, schedules."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from fakes.batches import GROUPS, batch_of
from laws import check_objective
from numpy.typing import NDArray
from pydantic import ValidationError
from torture import times

from objectives.short_training import scene_batch, train_30_steps
from rspretrain.batch import Batch
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.objectives.base import Progress
from rspretrain.objectives.gsc_mim import GscMim, GscMimSettings
from rspretrain.sensors import Group
from rspretrain.strategies import build_strategy
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.optim import OptimSettings
from rspretrain.transforms.inputs import SensorSettings
from rspretrain.world import World

torch.set_num_threads(1)
SENSORS = {
    "s1": SensorSettings(bands=("VV", "VH"), normalise="bigearthnet"),
    "s2": SensorSettings(bands=("B04", "B11", "B01", "B02"), normalise="bigearthnet"),
    "rgb": SensorSettings(bands=("R", "G", "B"), normalise="imagenet"),
}
VIT = BackboneSettings(name="vit_tiny_patch16_224", args={"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2})
SMALL: dict[str, Any] = {"px": 32, "hidden": 20, "bottleneck": 12, "outputs": 16}  # 16 patches


def make(*sensors: str, backbone: BackboneSettings = VIT, **options: Any) -> GscMim:
    settings = GscMimSettings(**{**SMALL, **options})
    return GscMim(settings, {name: SENSORS[name] for name in sensors}, backbone, GROUPS).train()


def make_changed(*sensors: str, **options: Any) -> GscMim:
    """An objective whose teacher, centers and mask token differ from their initial values."""
    torch.manual_seed(0)
    objective = make(*sensors, **options)
    with torch.no_grad():
        for parameter in (
            *objective.teacher.parameters(),
            *[p for n, p in objective.named_parameters() if "mask" in n],
        ):
            parameter += 0.05 * torch.randn_like(parameter)
        for center in objective.centers.buffers():
            center += 0.1 * torch.randn_like(center)
    return objective


def make_two_students() -> GscMim:
    return make("rgb", "s1", photometric="ibot", momentum=0.9, frozen_epochs=0, px=16, norm_last_layer=False)


@pytest.mark.slow
def test_several_ranks_equal_one() -> None:
    check_objective(make_two_students, batch_of, worlds=times((2,), (2, 4)))


# The loss from the paper (docs/methods.md, Complementary masks; Losses of GSC-MIM), image by image and token by token.
Array = NDArray[np.float64]


def slow_head(token: Array, head: torch.nn.Module) -> Array:
    weights = {name: p.detach().double().numpy() for name, p in head.named_parameters()}
    for layer in (0, 2, 4):
        token = weights[f"mlp.{layer}.weight"] @ token + weights[f"mlp.{layer}.bias"]
        if layer < 4:
            token = np.array([0.5 * t * (1 + math.erf(t / math.sqrt(2))) for t in token])  # GELU
    token = token / math.sqrt(token @ token)
    return np.array([(row @ token) / math.sqrt(row @ row) for row in weights["prototypes"]])


def slow_softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum()


def slow_ce(teacher: Array, center: Array, teacher_tau: float, student: Array, student_tau: float) -> float:
    target = slow_softmax((teacher - center) / teacher_tau)
    return float(-(target * np.log(slow_softmax(student / student_tau))).sum())


def slow_loss(objective: GscMim, batch: Batch, name: str, pairs: list[tuple[int, torch.Tensor]]) -> tuple[float, float]:
    """CLS and patch loss; `pairs`: view and mask [B N] of every pass of the student."""
    settings, (student, teacher) = objective.settings, objective._networks(name)
    views = objective.views(batch)[name]
    c_cls, c_patch = (center.double().numpy() for center in objective.centers[name].buffers())
    with torch.no_grad():
        teacher_tokens = [teacher.vit(view) for view in views]
        student_tokens = [(view, mask, student.vit(views[view], mask)) for view, mask in pairs]
    h_t = lambda x: slow_head(x.double().numpy(), teacher.head)  # noqa: E731
    h_s = lambda x: slow_head(x.double().numpy(), student.head)  # noqa: E731
    cls, patch = [], []
    for b in range(len(batch)):
        for view, mask, (cls_token, tokens) in student_tokens:
            other = h_t(teacher_tokens[1 - view][0][b])
            cls.append(slow_ce(other, c_cls, objective.cls_temperature, h_s(cls_token[b]), settings.temperature))
            hidden = [i for i in range(16) if mask[b, i]]
            terms = [
                slow_ce(
                    h_t(teacher_tokens[view][1][b, i]), c_patch, objective.patch_temperature, h_s(tokens[b, i]), 0.1
                )
                for i in hidden
            ]
            patch.append(sum(terms) / max(1, len(hidden)))
    return float(np.mean(cls)), float(np.mean(patch))


@pytest.mark.parametrize("masking", ["paired", "shared_geometry", "double"])
def test_equals_a_loop_written_from_the_paper(masking: str) -> None:
    objective, batch = make_changed("s2", masking=masking, photometric="ibot", cls_weight=0.7), batch_of(np.arange(5))
    objective.prepare(Progress(70, 100, 10))
    first, second = objective.masks(batch.seeds)[0].chunk(2)
    assert 0 < first.any(dim=1).sum() < 5  # some images are masked, some are not
    assert torch.equal(first ^ second, first.any(dim=1, keepdim=True).expand_as(first))
    pairs = [(0, first), (1, second)] + ([(0, second), (1, first)] if masking == "double" else [])
    want_cls, want_patch = slow_loss(objective, batch, "s2", pairs)
    result = objective(batch)
    assert result.metrics["loss/cls"].item() == pytest.approx(want_cls, rel=1e-5)
    assert result.metrics["loss/patch"].item() == pytest.approx(want_patch, rel=1e-5)
    assert result.loss.item() == pytest.approx(0.7 * want_cls + want_patch, rel=1e-5)
    assert result.metrics["loss/gsc_mim"] == result.loss


def test_terms_equal_lightly() -> None:
    from lightly.loss import DINOLoss, IBOTPatchLoss

    objective, batch = make_changed("rgb"), batch_of(np.arange(6))
    for center in objective.centers.buffers():
        center.zero_()
    student, teacher = objective._networks("rgb")
    mask = objective.masks(batch.seeds)[0]
    assert set(mask.sum(dim=1).gt(0).tolist()) == {False, True}  # including an image without masked patches
    with torch.no_grad():
        views = torch.cat(objective.views(batch)["rgb"])
        targets = [teacher.head(tokens) for tokens in teacher.vit(views)]
        outputs = [student.head(tokens) for tokens in student.vit(views, mask)]
    dino = DINOLoss(output_dim=16, teacher_temp=0.04)(list(targets[0].chunk(2)), list(outputs[0].chunk(2)))
    ibot = IBOTPatchLoss(output_dim=16, teacher_temp=0.04, student_temp=0.1)
    patch = ibot(targets[1][mask], outputs[1][mask], mask.view(-1, 4, 4))
    result = objective(batch)
    assert result.metrics["loss/cls"].item() == pytest.approx(dino.item(), rel=1e-5)
    assert result.metrics["loss/patch"].item() == pytest.approx(patch.item(), rel=1e-5)


def test_without_masks_only_the_class_loss_remains() -> None:
    objective = make_changed("s1", mask_probability=0.0)
    result = objective(batch_of(np.arange(4)))
    result.loss.backward()
    assert result.metrics["loss/patch"] == 0.0
    assert result.loss == result.metrics["loss/cls"]
    mask_token = objective._networks("s1")[0].vit.mask_token
    assert mask_token is not None
    assert torch.equal(mask_token.grad, torch.zeros(24))  # type: ignore[arg-type]
    objective.zero_grad()
    masked = make_changed("s1", mask_probability=1.0)
    masked(batch_of(np.arange(4))).loss.backward()
    assert dict(masked.named_parameters())["student.s1.vit.mask_token"].grad.any()  # type: ignore[union-attr]


def test_centers_average_all_patches() -> None:
    objective, batch = make_changed("s2", center_momentum=0.8), batch_of(np.arange(4))
    teacher = objective._networks("s2")[1]
    before = [buffer.clone() for buffer in objective.centers.buffers()]
    with torch.no_grad():
        tokens = teacher.vit(torch.cat(objective.views(batch)["s2"]))
        means = [teacher.head(tokens[0]).mean(dim=0), teacher.head(tokens[1]).mean(dim=(0, 1))]
    objective(batch)
    for old, new, mean in zip(before, objective.centers.buffers(), means, strict=True):
        torch.testing.assert_close(new, 0.8 * old + 0.2 * mean)


def test_targets_do_not_depend_on_masks() -> None:
    found = []
    for probability in (0.0, 1.0):
        objective, batch = make_changed("rgb", mask_probability=probability), batch_of(np.arange(4))
        targets = objective._teacher_targets("rgb", torch.cat(objective.views(batch)["rgb"]), torch.arange(20))
        found.append((targets, list(objective.centers.buffers())))
        assert "mask_token" not in " ".join(name for name, _ in objective.teacher.named_parameters())
    for one, two in zip(found[0][0], found[1][0], strict=True):
        assert torch.equal(one, two)
    assert all(torch.equal(one, two) for one, two in zip(found[0][1], found[1][1], strict=True))


def test_student_std_detects_a_fully_masked_student(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batch = make("s2"), batch_of(np.arange(4))
    healthy = objective(batch).metrics
    all_masked = torch.ones_like(objective.masks(batch.seeds))
    monkeypatch.setattr(objective, "masks", lambda seeds: all_masked)
    blind = objective(batch).metrics
    assert blind["health/student_std"] < 1e-5 < 0.01 < healthy["health/student_std"]
    assert blind["health/feature_std"] == healthy["health/feature_std"]


def test_schedules_at_their_ends() -> None:
    objective = make("s1")
    found = []
    for step in (0, 1500, 2999, 3000):  # 300 epochs of 10 steps
        objective.prepare(Progress(step, 3000, 10))
        found.append((objective.momentum, objective.cls_temperature, objective.patch_temperature))
    assert found[0] == (0.996, 0.04, 0.04)
    assert found[1] == (pytest.approx(0.998), 0.07, 0.07)
    assert 1 - 1e-8 < found[2][0] < found[3][0] == 1.0  # type: ignore[operator]
    objective.prepare(Progress(295, 3000, 10))  # the last of 30 epochs
    assert objective.cls_temperature == pytest.approx(0.07)


def test_the_last_layer_is_frozen_in_the_first_epoch() -> None:
    objective, batch = make_changed("s1", mask_probability=1.0), batch_of(np.arange(4))
    head = objective._networks("s1")[0].head
    for step, moves in ((0, False), (9, False), (10, True)):
        objective.zero_grad()
        objective.prepare(Progress(step, 100, 10))
        objective(batch).loss.backward()
        assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
        assert bool(head.prototypes.grad.any()) is moves  # type: ignore[union-attr]
        assert head.mlp[0].weight.grad.any()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("masking", ["paired", "double"])
def test_only_masked_patches_reach_the_last_layer(masking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batch = make("rgb", masking=masking), batch_of(np.arange(8))
    rows: list[int] = []
    head = type(objective._networks("rgb")[0].head)
    outputs = head.outputs
    monkeypatch.setattr(head, "outputs", lambda self, z: rows.append(len(z)) or outputs(self, z))
    masks = objective.masks(batch.seeds)
    objective(batch)
    hidden = int(masks.sum())
    assert rows == [16, hidden, 2, 16 * len(masks) + hidden]  # teacher: CLS, patches, two means; student: all at once


def test_views_share_a_crop_only_with_shared_geometry() -> None:
    for masking, same in (("paired", False), ("shared_geometry", True)):
        objective = make("s1", masking=masking, photometric="ibot")
        batch = batch_of(np.arange(4))
        one, two = objective.views(batch)["s1"]
        assert not torch.equal(one, two)
        # Gain, offset and weak speckle keep the correlation of the pixels high.
        correlation = torch.corrcoef(torch.stack([one[0, 0].flatten(), two[0, 0].flatten()]))[0, 1]
        assert bool(correlation > 0.9) is same


def test_views_have_the_colours_of_ibot_or_none() -> None:
    assert make("rgb").settings.colours() == {"view0": None, "view1": None}
    first, second = make("rgb", photometric="ibot").settings.colours().values()
    assert first is not None
    assert second is not None
    for one in (first, second):
        reach = [one.strength * limit for limit in (one.brightness, one.contrast, one.saturation, one.hue)]
        assert reach == pytest.approx([0.4, 0.4, 0.2, 0.1])
        assert (one.jitter, one.grey) == (0.8, 0.2)
    assert [(one.blur, one.solarise) for one in (first, second)] == [(1.0, 0.0), (0.1, 0.2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masking": "shared_geometry"}, r"got shared_geometry with photometric none.*Set objective.photometric=ibot"),
        ({"mask_ratio": (0.6, 0.5)}, r"mask_ratio: got \[0.6, 0.5\], expected 0 <= min <= max <= 1.*\[0.1, 0.5\]"),
    ],
)
def test_invalid_settings_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make("s1", **options)


def test_a_convolutional_backbone_is_an_error() -> None:
    with pytest.raises(ValueError, match="is not a plain ViT"):
        make("rgb", backbone=BackboneSettings(name="test_resnet"))


def test_one_student_per_sensor_or_one_for_all() -> None:
    separate, together = make("s1", "s2"), make("s1", "s2", fusion="early", export="student")
    batch = batch_of(np.arange(4))
    for objective, names in ((separate, ["s1", "s2"]), (together, ["s1+s2"])):
        result = objective(batch)
        assert set(result.metrics) == set(objective.metric_names)
        assert list(objective.backbones()) == list(objective.inputs()) == names
    own = [separate(batch).metrics[f"loss/gsc_mim_{name}"].item() for name in ("s1", "s2")]
    assert separate.metric_names[3:5] == ("loss/gsc_mim_s1", "loss/gsc_mim_s2")
    assert all(value > 0 for value in own)
    assert separate.backbones()["s1"] is separate._networks("s1")[1].vit.backbone  # the teacher's
    assert together.backbones()["s1+s2"] is together._networks("s1+s2")[0].vit.backbone


def test_bf16_forwards_have_float32_losses() -> None:
    objective, batch = make_changed("rgb"), batch_of(np.arange(4))
    with torch.no_grad():
        expected = objective(batch).loss
    again = make_changed("rgb")
    with torch.autocast("cpu", torch.bfloat16):
        result = again(batch)
    result.loss.backward()
    for loss in (result.loss, result.metrics["loss/cls"], result.metrics["loss/patch"]):
        assert loss.dtype == torch.float32
        assert loss != loss.bfloat16()  # not rounded to bf16 before
    assert result.loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(buffer.dtype == torch.float32 for buffer in again.centers.buffers())


def test_30_steps_lower_the_loss_without_collapse() -> None:
    torch.manual_seed(0)
    small = {"hidden": 64, "bottleneck": 32, "outputs": 64, "momentum": 0.9, "frozen_epochs": 0}
    backbone = VIT.model_copy(update={"args": VIT.args | {"embed_dim": 48, "depth": 2}})
    group = Group("rgb", "rgb", ("R", "G", "B"), "uint8", (32, 32), 1.0, "grey")
    objective = GscMim(GscMimSettings(**(SMALL | small)), {"rgb": SENSORS["rgb"]}, backbone, [group]).train()
    before = copy.deepcopy(objective.student)
    losses = []
    for result in train_30_steps(objective, scene_batch, 2e-3):
        losses.append(result.loss.item())
        assert result.metrics["health/feature_std"] > 0.1
        assert result.metrics["health/target_entropy"] > 0.1
    assert np.mean(losses[-10:]) < 0.6 * losses[0]
    # The student has learned: the loss did not fall only because the teacher's targets became easier.
    again = copy.deepcopy(objective)
    again.student = before
    with torch.no_grad():
        assert objective(scene_batch(30)).loss < 0.9 * again(scene_batch(30)).loss


def test_a_refused_step_does_not_change_the_centers() -> None:
    objective = make("s1", frozen_epochs=0)
    world = World(0, 1, 0, torch.device("cpu"))
    strategy = build_strategy(
        StrategySettings(name="single", precision="fp32"), world, objective, OptimSettings(), objective.teachers()
    )
    batch = batch_of(np.arange(4))
    strategy.train_step(batch, 1e-3, 0.9)
    kept = [buffer.clone() for buffer in objective.centers.buffers()]
    assert all(center.any() for center in kept)
    batch.images["s1"][0] = torch.nan
    assert strategy.train_step(batch, 1e-3, 0.9).refused
    assert all(torch.equal(old, new) for old, new in zip(kept, objective.centers.buffers(), strict=True))
