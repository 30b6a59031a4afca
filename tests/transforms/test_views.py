"""Views of several sensors: shared crops, augmentation per sensor, and pinned views of single sensors."""

import numpy as np
import pytest
import torch
from fakes.batches import GROUPS, batch_of

from rspretrain.transforms.colour import ColourSettings
from rspretrain.transforms.inputs import SensorSettings
from rspretrain.transforms.views import CropSettings, Fusion, SensorViews

torch.set_num_threads(1)
SENSORS = {
    "s1": SensorSettings(bands=("VV", "VH"), normalise="bigearthnet"),
    "s2": SensorSettings(bands=("B04", "B11", "B01", "B02"), normalise="bigearthnet"),
}
RGB = {"rgb": SensorSettings(bands=("R", "G", "B"), normalise="imagenet")}
CROP = CropSettings(px=32)


def views(
    sensors: dict[str, SensorSettings],
    colour: ColourSettings | None = ColourSettings(),  # noqa: B008 (frozen)
    fusion: Fusion = "none",
    crop: CropSettings = CROP,
) -> SensorViews:
    return SensorViews(crop, {"view0": colour, "view1": colour}, sensors, GROUPS, fusion)


# Means of the views of six samples, recorded from the first version.
RECORDED = {
    "rgb": (0, [-0.087013, 0.222897, 0.249132, 0.138971, -0.465165, -0.292087]),
    "s2": (1, [8.690900, 7.767126, 7.885070, 8.032274, 8.524004, 7.796711]),
    "s1": (0, [0.323947, 0.275612, 0.364311, 0.465714, 0.246461, 0.345243]),
}


@pytest.mark.parametrize("sensor", RECORDED)
def test_views_of_a_single_sensor_equal_the_recorded_ones(sensor: str) -> None:
    one = views({sensor: (SENSORS | RGB)[sensor]})
    index, expected = RECORDED[sensor]
    means = one(batch_of(np.arange(6)))[sensor][index].mean(dim=(1, 2, 3))
    torch.testing.assert_close(means, torch.tensor(expected), rtol=1e-4, atol=2e-5)


def test_all_sensors_of_a_sample_show_the_same_area() -> None:
    batch = batch_of(np.arange(5))
    ramp = torch.arange(24.0) - 25  # a pixel's value is its column
    batch.images["s1"][:] = ramp
    batch.images["s2_10m"][:] = ((ramp + 25) * 100).to(torch.uint16)
    sensors = {"s1": SensorSettings(bands=("VV",)), "s2": SensorSettings(bands=("B04",))}
    found = views(sensors, colour=None)(batch)
    for first, second in zip(found["s1"], found["s2"], strict=True):
        torch.testing.assert_close(first * 25, second * 100, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found["s1"][0], found["s1"][1])


def test_augmentation_is_drawn_per_sensor() -> None:
    batch = batch_of(np.arange(64))
    sensors = {"s1": SensorSettings(bands=("VV",)), "s2": SensorSettings(bands=("B02",))}
    found = views(sensors, ColourSettings(jitter=1, blur=0, band_drop=0, strength=1))(batch)
    gains = [found[s][0].std(dim=(1, 2, 3)) / views(sensors, None)(batch)[s][0].std(dim=(1, 2, 3)) for s in sensors]
    assert torch.corrcoef(torch.stack(gains))[0, 1].abs() < 0.4  # 64 independent pairs: 0.4 is three deviations


def test_early_fusion_stacks_the_bands_in_the_configured_order() -> None:
    batch = batch_of(np.arange(4))
    separate, together = views(SENSORS), views(SENSORS, fusion="early")
    assert list(separate.inputs()) == ["s1", "s2"]
    assert list(together.inputs()) == ["s1+s2"]
    assert together.inputs()["s1+s2"].bands == ("VV", "VH", "B04", "B11", "B01", "B02")
    assert separate.groups == together.groups == ("s1", "s2_10m", "s2_20m", "s2_60m")
    parts = separate(batch)
    for index, view in enumerate(together(batch)["s1+s2"]):
        assert torch.equal(view, torch.cat([parts["s1"][index], parts["s2"][index]], dim=1))


@pytest.mark.parametrize("fusion", ["none", "early"])
def test_views_do_not_depend_on_the_batch(fusion: Fusion) -> None:
    one = views(SENSORS, fusion=fusion)
    whole, part = one(batch_of(np.arange(6))), one(batch_of(np.array([5, 0, 3])))
    for name, found in part.items():
        for view, expected in zip(found, whole[name], strict=True):
            torch.testing.assert_close(view, expected[[5, 0, 3]], rtol=1e-5, atol=1e-5)


def test_a_view_without_augmentation_is_the_crop() -> None:
    crop = CropSettings(px=24, scale=(1.0, 1.0), symmetry="none")
    one, batch = views(SENSORS, colour=None, crop=crop), batch_of(np.arange(8))
    whole = one.inputs()["s1"].evaluate(batch, 24)
    equal = [torch.allclose(a, b, atol=1e-5) for a, b in zip(one(batch)["s1"][0], whole, strict=True)]
    assert any(equal)  # a whole-area box of a ratio other than 1 is cut on one side


def test_every_view_has_its_own_colour_settings() -> None:
    identity = ColourSettings(jitter=0, grey=0, blur=0)
    solarised = ColourSettings(jitter=0, grey=0, blur=0, solarise=1)
    crop = CropSettings(px=16, scale=(1.0, 1.0), symmetry="none")
    plain, other = (
        SensorViews(crop, {"view0": c}, RGB, GROUPS)(batch_of(np.arange(3)))["rgb"][0] for c in (identity, solarised)
    )
    both = SensorViews(crop, {"view0": identity, "view1": solarised}, RGB, GROUPS)(batch_of(np.arange(3)))["rgb"]
    assert torch.equal(both[0], plain)
    assert not torch.equal(plain, other)
    assert not torch.equal(both[1], both[0])


def test_no_gradient_and_float32_under_autocast() -> None:
    one, batch = views(SENSORS), batch_of(np.arange(3))
    expected = one(batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = one(batch)
    for name in expected:
        assert all(torch.equal(*both) for both in zip(found[name], expected[name], strict=True))
        assert not any(view.requires_grad for view in found[name])


def test_views_with_a_shared_crop_differ_in_colour_only() -> None:
    batch = batch_of(np.arange(4))
    plain, coloured, shared = (
        SensorViews(CROP, {"view0": None, "view1": colour}, SENSORS, GROUPS, shared_crop=shared_crop)(batch)["s2"]
        for colour, shared_crop in ((None, False), (ColourSettings(), False), (None, True))
    )
    assert torch.equal(shared[0], plain[0])  # the first crop does not depend on the others
    assert torch.equal(shared[1], shared[0])
    assert not torch.equal(plain[1], plain[0])
    assert not torch.equal(coloured[1], plain[1])


def test_a_view_may_have_its_own_crop_settings() -> None:
    batch, small = batch_of(np.arange(4)), CropSettings(px=8, scale=(0.05, 0.2), symmetry="none")
    colours = {"view0": None, "local0": ColourSettings()}
    mixed = SensorViews(CROP, colours, SENSORS, GROUPS, crops={"local0": small})(batch)["s2"]
    alone = SensorViews(CROP, {"view0": None}, SENSORS, GROUPS)(batch)["s2"]
    local = SensorViews(small, {"local0": ColourSettings()}, SENSORS, GROUPS)(batch)["s2"]
    assert torch.equal(mixed[0], alone[0])
    assert torch.equal(mixed[1], local[0])
    assert mixed[1].shape[2:] == (8, 8)
