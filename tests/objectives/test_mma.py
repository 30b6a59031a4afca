"""MMA: several ranks equal one, a slow reference, similarity as a convolution, closed forms, settings."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.batches import GROUPS, batch_of
from laws import check_objective
from torture import times

from objectives.short_training import train_30_steps
from rspretrain.nn.backbones import BackboneSettings
from rspretrain.objectives.contrastive import nt_xent
from rspretrain.objectives.mma import Mma, MmaSettings, directions
from rspretrain.transforms.inputs import SensorSettings

torch.set_num_threads(1)
SENSORS = {
    "s1": SensorSettings(bands=("VV", "VH"), normalise="bigearthnet"),
    "s2": SensorSettings(bands=("B04", "B11", "B01", "B02"), normalise="bigearthnet"),
}
SMALL = BackboneSettings(name="test_resnet", args={"output_stride": 8})


def make(backbone: BackboneSettings = SMALL, **options: object) -> Mma:
    return Mma(MmaSettings(**{"crop_px": 18, "px": 24, **options}), SENSORS, backbone, GROUPS)  # type: ignore[arg-type]


def make_projected() -> Mma:
    return make(channels=16, px=32)


@pytest.mark.slow
def test_several_ranks_equal_one() -> None:
    check_objective(make_projected, batch_of, worlds=(2, 4)[: times(1, 2)])


def slow_loss(a: np.ndarray, b: np.ndarray, temperature: float) -> float:
    """Windsor et al. 2021 on maps [B D h w]: mean of local cosines, one pair after the other; two softmaxes."""
    num, _, height, width = a.shape
    similarity = np.zeros((num, num))
    for i in range(num):
        for j in range(num):
            for y in range(height):
                for x in range(width):
                    u, v = a[i, :, y, x], b[j, :, y, x]
                    similarity[i, j] += u @ v / np.sqrt((u @ u) * (v @ v)) / (height * width)
    exponentials = np.exp(similarity / temperature)
    rows = [-np.log(exponentials[i, i] / exponentials[i].sum()) for i in range(num)]
    columns = [-np.log(exponentials[i, i] / exponentials[:, i].sum()) for i in range(num)]
    return float(np.mean(rows) + np.mean(columns)) / 2


@pytest.mark.parametrize("channels", [None, 8])
def test_equals_a_loop_written_from_the_paper(channels: int | None) -> None:
    torch.manual_seed(0)
    objective, batch = make(channels=channels).eval(), batch_of(np.arange(5))
    maps = []
    for name, view in objective.views(batch).items():
        one = objective.encoders[name].model.forward_features(view)  # type: ignore[operator, union-attr]
        assert one.shape == (5, 96, 3, 3)
        if channels:
            head = objective.heads[name]
            one = F.conv2d(one, head.weight, head.bias)  # type: ignore[arg-type]
        maps.append(one.detach().double().numpy())
    result = objective(batch)
    assert result.loss.item() == pytest.approx(slow_loss(*maps, temperature=0.1), rel=1e-5)
    assert result.metrics["loss/mma"] == result.loss
    assert set(result.metrics) == set(objective.metric_names)


def test_similarity_equals_the_ports_convolution() -> None:
    torch.manual_seed(0)
    a, b = (directions(torch.randn(4, 8, 3, 5)) for _ in range(2))
    port = F.conv2d(a, b)[:, :, 0, 0] / 15  # one offset only
    ours = F.normalize(a.flatten(1)) @ F.normalize(b.flatten(1)).T
    torch.testing.assert_close(ours, port)


def test_closed_forms() -> None:
    same = directions(torch.rand(1, 4, 2, 2)).expand(6, 4, 2, 2).flatten(1)
    assert nt_xent(same, same, 0.1, "cross").item() == pytest.approx(math.log(6), rel=1e-5)  # all equal: chance level
    orthogonal = torch.eye(3).repeat(1, 4)
    assert nt_xent(orthogonal, orthogonal, 0.1, "cross").item() == pytest.approx(
        math.log(1 + 2 * math.exp(-10)), rel=1e-3
    )


def test_30_steps_learn_to_match_maps() -> None:
    torch.manual_seed(0)
    objective, batch = make(channels=16).train(), batch_of(np.arange(8))
    results = list(train_30_steps(objective, lambda step: batch, 3e-3))
    assert results[-1].loss < 0.5 * results[0].loss
    assert results[-1].metrics["health/positive_cosine"] > 0.5


def test_exported_features_are_the_means_of_the_maps() -> None:
    objective = make().eval()
    view = objective.views(batch_of(np.arange(2)))["s1"]
    encoder = objective.backbones()["s1"]
    torch.testing.assert_close(encoder(view, pool=False).mean((2, 3)), encoder.model(view))
    assert [b.bands for b in objective.backbones().values()] == [one.bands for one in objective.inputs().values()]


def test_float32_loss_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert make()(batch_of(np.arange(4))).loss.dtype == torch.float32


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"mma compares two sensors: got 1, \['s1'\]. List two"):
        Mma(MmaSettings(crop_px=18), {"s1": SENSORS["s1"]}, SMALL, GROUPS)
    with pytest.raises(
        ValueError, match=r"'test_vit' pools \[1, 5, 64\] to .*expected a feature map .*backbone.name to a ResNet"
    ):
        make(BackboneSettings(name="test_vit"), px=32)
