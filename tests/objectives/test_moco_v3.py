"""MoCo v3: several ranks equal one, a slow reference from the paper, lightly's loss, momentum, heads, settings."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.batches import GROUPS, batch_of
from laws import check_objective
from numpy.typing import NDArray
from torture import times

from objectives.short_training import train_30_steps
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.objectives.base import Progress
from rspretrain.objectives.moco_v3 import MocoV3, MocoV3Settings, info_nce
from rspretrain.transforms.inputs import SensorSettings

torch.set_num_threads(1)
ensure_torchvision()
SENSORS = {
    "s1": SensorSettings(bands=("VV", "VH"), normalise="bigearthnet"),
    "s2": SensorSettings(bands=("B04", "B11", "B01", "B02"), normalise="bigearthnet"),
    "rgb": SensorSettings(bands=("R", "G", "B"), normalise="imagenet"),
}
VIT = BackboneSettings(name="vit_tiny_patch16_224", args={"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2})
CNN = BackboneSettings(name="test_resnet")


def make(*sensors: str, backbone: BackboneSettings = VIT, **options: object) -> MocoV3:
    settings = MocoV3Settings(**{"px": 16, "hidden": 32, "projection": 16, **options})  # type: ignore[arg-type]
    return MocoV3(settings, {name: SENSORS[name] for name in sensors}, backbone, GROUPS)


def make_two_students() -> MocoV3:
    return make("rgb", "s1", momentum=0.9, freeze_patch_embedding=True)


@pytest.mark.slow
def test_several_ranks_equal_one() -> None:
    check_objective(make_two_students, batch_of, worlds=(2, 4)[: times(1, 2)])


def slow_info_nce(q: NDArray[np.float64], k: NDArray[np.float64], temperature: float) -> float:
    """Chen et al. 2021, algorithm 1, one query after the other."""
    q, k = (x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (q, k))
    rows = [-np.log(np.exp(a @ k[i] / temperature) / np.exp(k @ a / temperature).sum()) for i, a in enumerate(q)]
    return 2 * temperature * float(np.mean(rows))


def slow_head(x: NDArray[np.float64], head: torch.nn.Sequential) -> NDArray[np.float64]:
    """Linear without bias, BatchNorm with the batch's own statistics, ReLU except at the end; in numpy."""
    linears = [part for part in head if isinstance(part, torch.nn.Linear)]
    norms = [part for part in head if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    for linear, norm in zip(linears, norms, strict=True):
        assert linear.bias is None
        x = x @ linear.weight.detach().double().numpy().T
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + norm.eps)
        if norm.affine:
            x = np.maximum(x * norm.weight.detach().double().numpy() + norm.bias.detach().double().numpy(), 0)
    assert not norms[-1].affine
    return x


def test_equals_a_loop_written_from_the_paper() -> None:
    torch.manual_seed(0)
    objective, batch = make("s2").train(), batch_of(np.arange(6))
    with torch.no_grad():
        for parameter in objective.teacher.parameters():  # a teacher that differs from the student
            parameter += 0.05 * torch.randn_like(parameter)
        views = objective.views(batch)["s2"]
        student, teacher = objective.student["s2"], objective.teacher["s2"]
        features = [[net.encoder(view).double().numpy() for view in views] for net in (student, teacher)]
    q1, q2 = (slow_head(slow_head(x, student.projector), objective.predictor["s2"]) for x in features[0])
    k1, k2 = (slow_head(x, teacher.projector) for x in features[1])
    expected = slow_info_nce(q1, k2, 0.2) + slow_info_nce(q2, k1, 0.2)
    result = objective(batch)
    assert result.loss.item() == pytest.approx(expected, rel=1e-4)
    assert result.metrics["loss/moco_v3"] == result.loss


def test_rows_equal_lightlys_ntxent_with_the_other_keys_as_memory_bank() -> None:
    from lightly.loss import NTXentLoss

    torch.manual_seed(0)
    q, k = torch.randn(2, 5, 8).unbind()
    rows = []
    for i in range(5):
        reference = NTXentLoss(temperature=0.2, memory_bank_size=(4, 8))
        others = F.normalize(torch.cat([k[:i], k[i + 1 :]]))
        reference.memory_bank.bank = others
        rows.append(reference(q[i : i + 1], k[i : i + 1]))
    torch.testing.assert_close(info_nce(q, 3 * k, 0.2), 0.4 * torch.stack(rows).mean(), rtol=1e-5, atol=1e-6)


def test_closed_forms() -> None:
    same = torch.ones(6, 4)
    assert info_nce(same, same, 0.2).item() == pytest.approx(0.4 * math.log(6))
    orthogonal = torch.eye(3)
    assert info_nce(orthogonal, 2 * orthogonal, 0.2).item() == pytest.approx(
        0.4 * math.log(1 + 2 * math.exp(-5)), rel=1e-4
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert info_nce(orthogonal, orthogonal, 0.2).dtype == torch.float32


def test_momentum_rises_from_099_to_one_by_a_half_cosine() -> None:
    objective = make("s1")
    for step, expected in ((0, 0.99), (500, 0.995), (1000, 1.0)):
        objective.prepare(Progress(step, 1000, 10))
        assert objective.momentum == pytest.approx(expected)


def test_heads_have_the_papers_layers() -> None:
    vit = make("s2", hidden=4096, projection=256)
    shapes = [tuple(p.shape) for p in vit.student["s2"].projector.parameters() if p.dim() == 2]
    assert shapes == [(4096, 24), (4096, 4096), (256, 4096)]
    assert [tuple(p.shape) for p in vit.predictor["s2"].parameters() if p.dim() == 2] == [(4096, 256), (256, 4096)]
    cnn = make("s2", backbone=CNN, px=32, projector_layers=2)
    assert sum(p.dim() == 2 for p in cnn.student["s2"].projector.parameters()) == 2


def test_only_the_patch_embedding_is_frozen() -> None:
    objective = make("rgb", freeze_patch_embedding=True).train()
    frozen = [name for name, p in objective.student.named_parameters() if not p.requires_grad]
    assert frozen == [f"rgb.encoder.model.patch_embed.proj.{name}" for name in ("weight", "bias")]
    objective(batch_of(np.arange(4))).loss.backward()
    moved = [p.grad is not None for p in (*objective.student.parameters(), *objective.predictor.parameters())]
    assert moved.count(False) == 2
    assert not any(p.requires_grad or p.grad is not None for p in objective.teacher.parameters())
    with pytest.raises(ValueError, match=r"is true, but backbone 'test_resnet' has no patch .* Set objective.freeze_"):
        make("rgb", backbone=CNN, px=32, freeze_patch_embedding=True)


def test_sensors_fusion_and_export() -> None:
    separate = make("s1", "s2").train()
    result = separate(batch_of(np.arange(6)))
    assert set(result.metrics) == set(separate.metric_names) >= {"loss/moco_v3_s1", "loss/moco_v3_s2"}
    assert list(separate.backbones()) == list(separate.inputs()) == ["s1", "s2"]
    early = make("s1", "s2", fusion="early", export="teacher").train()
    assert set(early(batch_of(np.arange(4))).metrics) == set(early.metric_names)
    assert early.backbones()["s1+s2"] is early.teacher["s1+s2"].encoder
    assert early.backbones()["s1+s2"].bands == ("VV", "VH", "B04", "B11", "B01", "B02")


def test_30_steps_lower_the_loss_without_collapse() -> None:
    torch.manual_seed(0)
    objective, batch = make("rgb", momentum=0.9).train(), batch_of(np.arange(16))
    results = list(train_30_steps(objective, lambda step: batch, 2e-3))
    assert results[-1].loss < 0.7 * results[0].loss
    assert results[-1].metrics["health/feature_std"] > 0.3
