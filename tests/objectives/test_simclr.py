"""SimCLR: several ranks equal one, kinds of views, and views that depend on the sample only."""

import numpy as np
import pytest
import torch
from fakes.batches import GROUPS, batch_of
from laws import check_objective

from rspretrain.nn.backbones import BackboneSettings
from rspretrain.nn.norm import SyncBatchNorm
from rspretrain.objectives.simclr import Simclr, SimclrSettings
from rspretrain.transforms.colour import ColourSettings
from rspretrain.transforms.inputs import SensorSettings

torch.set_num_threads(1)
BANDS = {"rgb": ("R", "G", "B"), "s2": ("B04", "B11", "B01", "B02"), "s1": ("VV", "VH")}
IDENTITY = ColourSettings(jitter=0, grey=0, blur=0, solarise=0, band_drop=0, strength=0)


def make(sensor: str = "rgb", normalise: str = "fixed", backbone: str = "resnet18", **options: object) -> Simclr:
    settings = SimclrSettings(sensor=sensor, px=32, **options)  # type: ignore[arg-type]
    sensors = {sensor: SensorSettings(bands=BANDS[sensor], normalise=normalise)}
    return Simclr(settings, sensors, BackboneSettings(name=backbone), GROUPS)


def make_rgb() -> Simclr:
    return make(backbone="test_resnet")


def make_multispectral() -> Simclr:
    return make("s2", "bigearthnet", backbone="test_resnet")


@pytest.mark.slow
def test_several_ranks_equal_one_rgb() -> None:
    check_objective(make_rgb, batch_of)


@pytest.mark.slow
def test_several_ranks_equal_one_multispectral() -> None:
    check_objective(make_multispectral, batch_of)


@pytest.mark.parametrize("sensor", BANDS)
def test_views_do_not_depend_on_the_batch(sensor: str) -> None:
    objective, positions = make(sensor), np.arange(6)
    whole = objective.views(batch_of(positions))
    for part in ([4], [5, 0, 3], [1, 2]):
        for view, expected in zip(objective.views(batch_of(positions[part])), whole, strict=True):
            torch.testing.assert_close(view, expected[part], rtol=1e-5, atol=1e-5)
    again = objective.views(batch_of(positions, seed=1))
    assert not torch.allclose(again[0], whole[0])
    assert not torch.allclose(whole[0], whole[1])


def test_rgb_views_are_normalised_last() -> None:
    batch = batch_of(np.arange(4))
    fixed = make(colour=ColourSettings(strength=1.0)).views(batch)[0]
    assert fixed.min() >= 0.0
    assert fixed.max() <= 1.0
    imagenet = make(normalise="imagenet", colour=ColourSettings(strength=1.0)).views(batch)[0]
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(imagenet, (fixed - mean) / std, rtol=1e-4, atol=1e-5)


def test_views_of_whole_images_equal_the_evaluation_view() -> None:
    batch = batch_of(np.arange(16))
    objective = make("s2", scale=(1.0, 1.0), symmetry="none", colour=IDENTITY)
    whole = objective.inputs()["s2"].evaluate(batch, 32)
    # A whole-area box with an aspect ratio other than 1 is cut on one side, so only some views are whole images.
    equal = [torch.allclose(a, b, atol=1e-5) for a, b in zip(objective.views(batch)[0], whole, strict=True)]
    assert any(equal)
    assert not all(equal)


def test_head_and_backbone_norms_are_synchronised() -> None:
    norms = [module for module in make().modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 20 + 1
    assert all(isinstance(module, SyncBatchNorm) for module in norms)


def test_several_sensors_are_an_error() -> None:
    sensors = {"rgb": SensorSettings(bands=BANDS["rgb"]), "s1": SensorSettings(bands=BANDS["s1"])}
    with pytest.raises(
        ValueError, match=r"objective.sensor is 'rgb', and the configured sensors are \['rgb', 's1'\]. Keep"
    ):
        Simclr(SimclrSettings(sensor="rgb", px=32), sensors, BackboneSettings(), GROUPS)
