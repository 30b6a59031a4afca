"""From raw batches to normalised input: bands by name over several grids, and where crops lie."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes.batches import GROUPS, batch_of

from rspretrain.objectives.resample import Geometry, full_geometry
from rspretrain.objectives.views import (
    NetworkInput,
    SensorInput,
    SensorSettings,
    centre_crop,
    finest_and_coarsest,
    random_resized_crop,
    random_window,
    with_symmetry,
)

torch.set_num_threads(1)
CPU = torch.device("cpu")
SEEDS = torch.arange(3000) * 104729 + 1


def make(sensor: str, *bands: str, normalise: str = "fixed") -> SensorInput:
    return SensorInput(sensor, SensorSettings(bands=bands, normalise=normalise), GROUPS)


def test_bands_of_several_grids_in_the_order_of_the_settings() -> None:
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
    got = NetworkInput([make("s1", "VH")]).evaluate(batch, 12)[
        ..., 1:-1
    ]  # the filter is cut, hence lopsided, at the image's edge
    torch.testing.assert_close(got, torch.full((1, 1, 12, 10), 0.5))


def test_evaluation_is_the_image_itself_at_scale_one() -> None:
    batch = batch_of(np.arange(4))
    want = batch.images["s2_10m"].float()[:, [3, 0]].clip(0, 1e4) / 1e4
    torch.testing.assert_close(NetworkInput([make("s2", "B08", "B02")]).evaluate(batch, 24), want)
    middle = NetworkInput([make("s2", "B08", "B02")]).evaluate(batch, 16, crop_px=16)
    torch.testing.assert_close(middle, want[:, :, 4:20, 4:20])


def test_bands_of_several_sensors_lie_one_behind_the_other() -> None:
    parts, batch = [make("s1", "VH", "VV"), make("s2", "B08", "B02")], batch_of(np.arange(3))
    both = NetworkInput(parts)
    assert (both.name, both.bands) == ("s1+s2", ("VH", "VV", "B08", "B02"))
    assert both.groups == ("s1", "s2_10m")
    assert list(both.normalisations()) == ["s1", "s2"]
    want = [NetworkInput([part]).evaluate(batch, 16, crop_px=20) for part in parts]
    assert torch.equal(both.evaluate(batch, 16, crop_px=20), torch.cat(want, dim=1))


def test_images_of_different_size() -> None:
    one, batch = make("rgb", "R", "G", "B"), batch_of(np.arange(4))
    got = NetworkInput([one]).evaluate(batch, 20)
    for index, (height, width) in enumerate(batch.sizes["rgb"].tolist()):
        image = batch.images["rgb"][index : index + 1, :, :height, :width].float() / 255
        want = F.interpolate(image, (20, 20), mode="bilinear", antialias=True)
        torch.testing.assert_close(got[index], want[0], rtol=1e-5, atol=1e-5)


def test_random_resized_crops_are_torchvisions_in_distribution() -> None:
    sizes = torch.tensor([[256, 256]])
    boxes = random_resized_crop(SEEDS, "crop", sizes, (0.2, 0.5)) * 256
    assert torch.equal(boxes, boxes.round())
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = (height * width / 256**2).sort().values
    assert area[0] >= 0.195
    assert area[-1] <= 0.505
    assert area.mean() == pytest.approx(0.35, abs=0.01)
    logs = torch.log(width / height)
    assert logs.abs().max() <= math.log(4 / 3) + 0.02
    assert logs.mean().abs() < 0.01
    assert boxes.min() >= 0
    assert boxes.max() == 256
    free = 256 - height
    assert (boxes[:, 0] / free.clamp(min=1)).mean() == pytest.approx(0.5, abs=0.02)


def test_crops_that_do_not_fit_are_cut() -> None:
    boxes = random_resized_crop(SEEDS, "crop", torch.tensor([[100, 40]]), (0.9, 1.0))
    assert boxes.min() >= 0
    assert boxes.max() == 1
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_windows_lie_on_the_coarsest_grid_and_reach_every_place() -> None:
    finest, coarsest = torch.tensor([[120, 120]]), torch.tensor([[20, 20]])
    corners = random_window(SEEDS, "window", finest, coarsest, 90) * 120
    assert sorted(set(corners[:, 0].tolist())) == [0, 6, 12, 18, 24, 30]
    torch.testing.assert_close(corners[:, 2] - corners[:, 0], torch.full((3000,), 90.0, dtype=torch.float64))
    fine = random_window(SEEDS, "window", finest, finest, 90) * 120
    assert len(fine[:, 1].round().unique()) == 31
    small = random_window(SEEDS[:5], "window", torch.tensor([[50, 80]]), torch.tensor([[50, 80]]), 64)
    assert torch.equal(small[:, [0, 2]], torch.tensor([[0.0, 1.0]] * 5, dtype=torch.float64))


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


@pytest.mark.parametrize(("symmetry", "kinds"), [("none", 1), ("horizontal", 2), ("dihedral", 8)])
def test_symmetries_are_equally_likely(symmetry: str, kinds: int) -> None:
    g: Geometry = with_symmetry(torch.zeros(1, 4), SEEDS, "symmetry", symmetry)
    codes = g.flips[:, 0] + 2 * g.flips[:, 1] + 4 * g.transposes
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == kinds
    assert counts.min() > 0.8 * 3000 / kinds


def test_centre_crop_is_whole_where_the_image_is_smaller() -> None:
    boxes = centre_crop(torch.tensor([[30, 20]]), 25, 1).boxes * torch.tensor([30, 20, 30, 20])
    torch.testing.assert_close(boxes, torch.tensor([[2.0, 0.0, 27.0, 20.0]], dtype=torch.float64))


def test_errors_name_both_lists() -> None:
    with pytest.raises(
        ValueError,
        match=r"Bands \['B12', 'B10'\] of sensor 's2' are not in the shard set: wanted \['B12', 'B04', 'B10'\], "
        r"available \['B02', 'B03', 'B04', 'B08', 'B05', 'B11', 'B01', 'B09'\]. Leave them out of sensors.s2.bands",
    ):
        make("s2", "B12", "B04", "B10")
    with pytest.raises(
        ValueError, match=r"Sensor 's3' is not in the shard set, which has \['rgb', 's1', 's2'\]. Take one"
    ):
        make("s3", "B01")
    with pytest.raises(ValueError, match=r"Bands of sensor 's1' repeat: got \['VV', 'VV'\]. Name every band once."):
        make("s1", "VV", "VV")
