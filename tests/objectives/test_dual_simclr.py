"""Dual-SimCLR: several ranks equal one, a slow reference written from the paper, settings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.batches import GROUPS, batch_of
from laws import check_objective

from rspretrain.nn.backbones import BackboneSettings
from rspretrain.objectives.dual_simclr import DualSimclr, DualSimclrSettings
from rspretrain.transforms.inputs import SensorSettings

torch.set_num_threads(1)
SENSORS = {
    "s1": SensorSettings(bands=("VV", "VH")),
    "s2": SensorSettings(bands=("B04", "B01", "B11", "B02"), normalise="bigearthnet"),
}


def make(**options: object) -> DualSimclr:
    settings = DualSimclrSettings(**{"crop_px": 18, "px": 32, "temperature": 0.2, **options})  # type: ignore[arg-type]
    return DualSimclr(settings, SENSORS, BackboneSettings(), GROUPS)


def make_small() -> DualSimclr:
    settings = DualSimclrSettings(crop_px=18, px=32, temperature=0.2)
    return DualSimclr(settings, SENSORS, BackboneSettings(name="test_resnet"), GROUPS)


@pytest.mark.slow
def test_several_ranks_equal_one() -> None:
    check_objective(make_small, batch_of, worlds=(2, 4))


def test_equals_a_loop_written_from_the_paper() -> None:
    torch.manual_seed(0)
    objective, batch = make(), batch_of(np.arange(6))
    views = objective.views(batch)
    z = []
    for sensor in ("s1", "s2"):
        first, _, second = objective.heads[sensor]  # type: ignore[misc]
        features = objective.encoders[sensor](views[sensor])
        z.append(F.linear(F.linear(features, first.weight, first.bias).relu(), second.weight, second.bias))
    rows = [row / row.norm() for row in torch.cat(z)]
    total = torch.zeros(())
    for i, row in enumerate(rows):
        exponentials = [torch.exp(row @ other / 0.2) for other in rows]
        total -= torch.log(exponentials[(i + 6) % 12] / (sum(exponentials) - exponentials[i]))
    torch.testing.assert_close(objective(batch).loss, total / 12, rtol=1e-5, atol=1e-5)


def test_both_sensors_share_the_window() -> None:
    batch = batch_of(np.arange(5))
    ramp = torch.arange(24.0) - 25  # a pixel's value is its column
    batch.images["s1"][:] = ramp
    batch.images["s2_10m"][:] = ((ramp + 25) * 100).to(torch.uint16)
    sensors = {"s1": SensorSettings(bands=("VV",)), "s2": SensorSettings(bands=("B04",))}
    objective = DualSimclr(DualSimclrSettings(crop_px=16, symmetry="dihedral"), sensors, BackboneSettings(), GROUPS)
    views = objective.views(batch)
    torch.testing.assert_close(views["s1"] * 25, views["s2"] * 100)
    assert len({view.tobytes() for view in views["s1"].numpy()}) > 1
    assert objective.groups == ("s1", "s2_10m")


def test_default_temperature_depends_on_the_backbone() -> None:
    assert make(temperature=None).temperature == 0.07
    settings = DualSimclrSettings(crop_px=18, px=30)
    assert DualSimclr(settings, SENSORS, BackboneSettings(name="vit_sct"), GROUPS).temperature == 0.2


def test_backbones_and_inputs_by_sensor() -> None:
    objective = make(head="none")
    assert [b.bands for b in objective.backbones().values()] == [("VV", "VH"), ("B04", "B01", "B11", "B02")]
    assert list(objective.inputs()) == list(objective.backbones()) == ["s1", "s2"]
    assert not any(name.startswith("heads") for name, _ in objective.named_parameters())
    assert objective.groups == ("s1", "s2_10m", "s2_20m", "s2_60m")


def test_no_gradient_and_float32_views_under_autocast() -> None:
    objective, batch = make(), batch_of(np.arange(4))
    expected = objective.views(batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(expected[name], view) for name, view in objective.views(batch).items())
        result = objective(batch)
    assert result.loss.dtype == torch.float32
    assert not any(view.requires_grad for view in expected.values())


def test_errors() -> None:
    one = {"s1": SENSORS["s1"]}
    with pytest.raises(
        ValueError, match=r"dual_simclr compares two sensors: got 1, \['s1'\]. List two under `sensors`"
    ):
        DualSimclr(DualSimclrSettings(crop_px=18), one, BackboneSettings(), GROUPS)
    with pytest.raises(ValueError, match=r"crop_px=48 pixels does not fit images of 24 pixels .* to at most 24"):
        make(crop_px=48)
