"""Separable resampling against torch's antialiased interpolation of the same crop, and bit-exactness at scale 1."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rspretrain.transforms.resample import Geometry, full_geometry, resample, resample_weights

torch.set_num_threads(1)
CPU = torch.device("cpu")


def geometry(
    boxes: list[list[float]], flips: list[list[bool]] | None = None, turn: list[bool] | None = None
) -> Geometry:
    num = len(boxes)
    return Geometry(
        torch.tensor(boxes, dtype=torch.float64),
        torch.tensor(flips or [[False, False]] * num),
        torch.tensor(turn or [False] * num),
    )


def interpolate(crop: Tensor, px: int) -> Tensor:
    return F.interpolate(crop, (px, px), mode="bilinear", antialias=True, align_corners=False)


@pytest.mark.parametrize(("size", "px"), [(64, 20), (64, 63), (20, 64), (20, 120), (33, 33)])
def test_whole_image_equals_interpolate(size: int, px: int) -> None:
    x = torch.rand(3, 2, size, size + 5)
    (y,) = resample(x, [full_geometry(3, CPU)], px)
    torch.testing.assert_close(y, interpolate(x, px), rtol=1e-5, atol=1e-5)


def test_upsampling_is_plain_bilinear() -> None:
    x = torch.rand(2, 3, 20, 20)
    (y,) = resample(x, [full_geometry(2, CPU)], 120)
    torch.testing.assert_close(y, F.interpolate(x, (120, 120), mode="bilinear", align_corners=False))


def test_every_sample_has_its_own_crop_and_taps_stay_inside() -> None:
    x = torch.rand(3, 2, 40, 60)
    corners = [(0, 0, 40, 60), (7, 11, 30, 50), (39, 3, 40, 5)]  # top, left, bottom, right; the last is 1 x 2 pixels
    boxes = [[t / 40, le / 60, b / 40, r / 60] for t, le, b, r in corners]
    (y,) = resample(x, [geometry(boxes)], 16)
    for index, (t, le, b, r) in enumerate(corners):
        torch.testing.assert_close(
            y[index], interpolate(x[index : index + 1, :, t:b, le:r], 16)[0], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.float32])
@pytest.mark.parametrize("size", [64, 67, 120, 256, 997])
def test_scale_one_is_bit_equal_for_any_dtype(dtype: torch.dtype, size: int) -> None:
    x = (torch.rand(2, 3, size, size) * 255).to(dtype)
    crop = 32
    for top in (0, 1, size // 3, size - crop):
        box = [top / size, top / size, (top + crop) / size, (top + crop) / size]
        (y,) = resample(x, [geometry([box] * 2)], crop)
        assert torch.equal(y, x[:, :, top : top + crop, top : top + crop].float())


def test_float32_boxes_are_rounded_to_whole_pixels() -> None:
    low = torch.arange(0, 997 - 32, dtype=torch.float32) / 997
    high = torch.arange(32, 997, dtype=torch.float32) / 997
    weights = resample_weights(low, high, torch.zeros(len(low), dtype=torch.bool), 997, 997, 32)
    assert set(weights.unique().tolist()) == {0.0, 1.0}


def test_the_eight_symmetries_are_exact() -> None:
    x = torch.rand(8, 1, 9, 9)
    bits = [[bool(i & 1), bool(i & 2), bool(i & 4)] for i in range(8)]
    (y,) = resample(x, [geometry([[0.0, 0, 1, 1]] * 8, [b[:2] for b in bits], [b[2] for b in bits])], 9)
    for index, (down, across, turned) in enumerate(bits):
        expected = x[index].flip([axis for axis, use in ((1, down), (2, across)) if use])
        assert torch.equal(y[index], expected.transpose(1, 2) if turned else expected)
    base = torch.arange(9.0).view(1, 1, 3, 3).expand(8, 1, 3, 3)
    (orbit,) = resample(base, [geometry([[0.0, 0, 1, 1]] * 8, [b[:2] for b in bits], [b[2] for b in bits])], 3)
    rotations = [torch.rot90(base[0, 0], k) for k in range(4)]
    group = {tuple(t.flatten().tolist()) for r in rotations for t in (r, r.T)}
    assert {tuple(t.flatten().tolist()) for t in orbit} == group


def test_padding_never_enters_smaller_images() -> None:
    x = torch.full((2, 1, 50, 60), float("nan"))
    x[0, :, :40, :30], x[1, :, :50, :60] = torch.rand(1, 40, 30), torch.rand(1, 50, 60)
    sizes = torch.tensor([[40, 30], [50, 60]])
    (y,) = resample(x, [full_geometry(2, CPU)], 24, sizes)
    torch.testing.assert_close(y[0], interpolate(x[:1, :, :40, :30], 24)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(y[1], interpolate(x[1:], 24)[0], rtol=1e-5, atol=1e-5)


def test_limits_clip_before_averaging() -> None:
    x = torch.tensor([0.0, 30000.0]).repeat(8, 4)[None, None]
    limits = torch.tensor([0.0]), torch.tensor([10000.0])
    (y,) = resample(x, [full_geometry(1, CPU)], 1, None, limits)
    assert y.item() == pytest.approx(5000.0)


def test_slices_and_several_views_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(5, 2, 30, 30)
    first, second = full_geometry(5, CPU), geometry([[0.1, 0.2, 0.9, 0.7]] * 5)
    expected = [resample(x, [one], 12)[0] for one in (first, second)]
    monkeypatch.setattr("rspretrain.transforms.resample._SLICE", 2 * 2 * 30 * 30)
    for got, alone in zip(resample(x, [first, second], 12), expected, strict=True):
        torch.testing.assert_close(got, alone, rtol=1e-6, atol=1e-6)
