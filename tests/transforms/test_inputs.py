"""Network input from raw batches: bands by name over several grids, clipped, resampled, normalised."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.batches import GROUPS, batch_of

from rspretrain.transforms.crops import random_window, with_symmetry
from rspretrain.transforms.inputs import NetworkInput, SensorInput, SensorSettings, finest_and_coarsest
from rspretrain.transforms.resample import full_geometry

torch.set_num_threads(1)
CPU = torch.device("cpu")
SEEDS = torch.arange(3000) * 104729 + 1


def make(sensor: str, *bands: str, normalise: str = "fixed") -> SensorInput:
    return SensorInput(sensor, SensorSettings(bands=bands, normalise=normalise), GROUPS)


def test_bands_of_several_grids_are_in_the_configured_order() -> None:
    one, batch = make("s2", "B11", "B04", "B01", "B02", normalise="bigearthnet"), batch_of(np.arange(3))
    got = one(batch, full_geometry(3, CPU), 24)
    arrays = {
        "B11": F.interpolate(batch.images["s2_20m"].float()[:, 1:2], (24, 24), mode="bilinear"),
        "B04": batch.images["s2_10m"].float()[:, 2:3],
        "B01": F.interpolate(batch.images["s2_60m"].float()[:, :1], (24, 24), mode="bilinear"),
        "B02": batch.images["s2_10m"].float()[:, :1],
    }
    torch.testing.assert_close(got, one.normalise.scale(torch.cat(list(arrays.values()), dim=1)), rtol=1e-4, atol=1e-4)
    assert one.groups == ("s2_10m", "s2_20m", "s2_60m")


def test_only_needed_groups_are_read() -> None:
    batch = batch_of(np.arange(2))
    del batch.images["s2_20m"], batch.images["s1"]
    assert NetworkInput([make("s2", "B08", "B02")]).evaluate(batch, 24).shape == (2, 2, 24, 24)


def test_clipping_comes_before_averaging() -> None:
    batch = batch_of(np.arange(1))
    batch.images["s1"][:] = torch.tensor([-60.0, 0.0]).repeat(12)
    # Without the border, where the filter is cut and therefore asymmetric.
    got = NetworkInput([make("s1", "VH")]).evaluate(batch, 12)[..., 1:-1]
    torch.testing.assert_close(got, torch.full((1, 1, 12, 10), 0.5))


def test_evaluation_at_scale_one_returns_the_pixels() -> None:
    batch = batch_of(np.arange(4))
    expected = batch.images["s2_10m"].float()[:, [3, 0]].clip(0, 1e4) / 1e4
    torch.testing.assert_close(NetworkInput([make("s2", "B08", "B02")]).evaluate(batch, 24), expected)
    middle = NetworkInput([make("s2", "B08", "B02")]).evaluate(batch, 16, crop_px=16)
    torch.testing.assert_close(middle, expected[:, :, 4:20, 4:20])


def test_bands_of_several_sensors_are_stacked() -> None:
    parts, batch = [make("s1", "VH", "VV"), make("s2", "B08", "B02")], batch_of(np.arange(3))
    both = NetworkInput(parts)
    assert (both.name, both.bands) == ("s1+s2", ("VH", "VV", "B08", "B02"))
    assert both.groups == ("s1", "s2_10m")
    assert list(both.normalisations()) == ["s1", "s2"]
    expected = [NetworkInput([part]).evaluate(batch, 16, crop_px=20) for part in parts]
    assert torch.equal(both.evaluate(batch, 16, crop_px=20), torch.cat(expected, dim=1))


def test_images_of_different_size() -> None:
    one, batch = make("rgb", "R", "G", "B"), batch_of(np.arange(4))
    got = NetworkInput([one]).evaluate(batch, 20)
    for index, (height, width) in enumerate(batch.sizes["rgb"].tolist()):
        image = batch.images["rgb"][index : index + 1, :, :height, :width].float() / 255
        expected = F.interpolate(image, (20, 20), mode="bilinear", antialias=True)
        torch.testing.assert_close(got[index], expected[0], rtol=1e-5, atol=1e-5)


def test_window_of_coarse_bands_is_crop_then_upsample() -> None:
    one, batch = make("s2", "B04", "B11"), batch_of(np.arange(6))
    finest, coarsest = finest_and_coarsest([one], batch)
    boxes = random_window(batch.seeds, "window", finest, coarsest, 16)
    got = one(batch, with_symmetry(boxes, batch.seeds, "symmetry", "none"), 16) * 1e4
    for index, (top, left) in enumerate((boxes[:, :2] * 24).round().long().tolist()):
        fine = batch.images["s2_10m"][index, 2, top : top + 16, left : left + 16].float()
        coarse = batch.images["s2_20m"][index, 1, top // 2 : top // 2 + 8, left // 2 : left // 2 + 8].float()
        upsampled = F.interpolate(coarse[None, None].clip(0, 1e4), (16, 16), mode="bilinear")[0, 0]
        torch.testing.assert_close(got[index, 0], fine.clip(0, 1e4), rtol=1e-5, atol=1e-2)
        torch.testing.assert_close(got[index, 1], upsampled, rtol=1e-5, atol=1e-2)


def test_errors_name_both_lists() -> None:
    with pytest.raises(
        ValueError,
        match=r"Bands \['B12', 'B10'\] of sensor 's2' are not in the shard set: wanted \['B12', 'B04', 'B10'\], "
        r"available \['B02', 'B03', 'B04', 'B08', 'B05', 'B11', 'B01', 'B09'\]. Remove them from sensors.s2.bands",
    ):
        make("s2", "B12", "B04", "B10")
    with pytest.raises(
        ValueError, match=r"Sensor 's3' is not in the shard set, which has \['rgb', 's1', 's2'\]. Choose one"
    ):
        make("s3", "B01")
    with pytest.raises(ValueError, match=r"sensors.s1.bands has duplicates: got \['VV', 'VV'\]. List every band once."):
        make("s1", "VV", "VV")
