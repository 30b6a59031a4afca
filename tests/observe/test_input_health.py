import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes.batches import GROUPS, batch_of

from rspretrain.observe.input_health import SIDE, input_health, sample_pixels
from rspretrain.sensors import Group

BANDS = {"s1": ("VV",), "s2": ("B02", "B05"), "rgb": ("R",)}
STATISTICS = {
    "s1": {"VV": (-14.0, 6.0)},
    "s2_10m": {"B02": (6000.0, 12000 / math.sqrt(12))},
    "rgb": {"R": (127.5, 73.9)},
}


def test_ordinary_batches_match_the_statistics_of_the_shard_set():
    found = input_health(batch_of(np.arange(32)), GROUPS, BANDS, STATISTICS)
    assert set(found) == {
        *(f"input/{band}/{kind}" for band in ("s1/VV", "s2_10m/B02", "rgb/R") for kind in ("offset", "spread")),
        "input/duplicates",
    }  # not B05, which has no statistics, nor unused bands
    for name, value in found.items():
        assert value.item() == pytest.approx(1.0 if name.endswith("spread") else 0.0, abs=0.05), name


def test_offset_and_spread_in_closed_form():
    batch = batch_of(np.arange(4))
    batch.images["s1"][:, 0] = -14.0 + 3.0
    found = input_health(batch, GROUPS, BANDS, STATISTICS)
    assert (found["input/s1/VV/offset"].item(), found["input/s1/VV/spread"].item()) == (0.5, 0.0)


def test_a_band_that_is_constant_in_the_shard_set():
    constant = {"s1": {"VV": (-3.0, 0.0)}}
    found = input_health(batch_of(np.arange(4)), GROUPS, BANDS, constant)
    assert (found["input/s1/VV/offset"], found["input/s1/VV/spread"]) == (0, 0)


def test_duplicates_are_counted_over_all_groups():
    batch = batch_of(np.arange(8))
    twice = torch.tensor([0, 0, 1, 1, 2, 3, 4, 4])
    same = replace(
        batch,
        images={name: pixels[twice] for name, pixels in batch.images.items()},
        sizes={name: sizes[twice] for name, sizes in batch.sizes.items()},
    )
    assert input_health(same, GROUPS, BANDS, {})["input/duplicates"].item() == 3 / 8
    same.images["s1"][1, 1, 12, 12] += 1  # a difference in an unused band counts too
    assert input_health(same, GROUPS, BANDS, {})["input/duplicates"].item() <= 3 / 8


def test_pixels_are_sampled_from_the_image_not_from_its_padding():
    images = torch.full((2, 1, 40, 44), -1.0)
    sizes = torch.tensor([[5, 7], [40, 30]])
    for image, (height, width) in zip(images, sizes.tolist(), strict=True):
        image[:, :height, :width] = 1.0
    assert sample_pixels(images, sizes).shape == (2, 1, SIDE, SIDE)
    assert (sample_pixels(images, sizes) == 1.0).all()
    whole = torch.arange(6.0).view(1, 1, 2, 3)
    assert torch.equal(sample_pixels(whole, None), sample_pixels(whole, torch.tensor([[2, 3]])))


def test_nodata_pixels_are_ignored():
    group = Group("g", "other", ("x",), "int16", (4, 4), None, "dn", nodata=-9)
    pixels = torch.full((2, 1, 4, 4), 5, dtype=torch.int16)
    pixels[0] = -9
    batch = replace(batch_of(np.arange(2)), images={"g": pixels}, sizes={})
    found = input_health(batch, [group], {"other": ("x",)}, {"g": {"x": (4.0, 2.0)}})
    assert found["input/g/x/offset"].item() == 0.5
