"""Photometric augmentation equals torchvision's functional ops per sample and is keyed by sample, not by batch."""

import pytest
import torch

from rspretrain.nn.torchvision_shim import ensure_torchvision
from rspretrain.transforms import colour
from rspretrain.transforms.colour import ColourSettings

torch.set_num_threads(1)
ensure_torchvision()
SEEDS = torch.arange(400) * 7919 + 13


def images(num: int, px: int = 24) -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.rand(num, 3, px, px)
    x[:, :, 0, 0], x[:, 0, 1], x[:, 1, 2] = 0.5, 0.0, 1.0  # grey pixels, and ties between channels
    return x


def test_jitter_in_any_order_equals_torchvision() -> None:
    from torchvision.transforms.v2 import functional as tv

    ops = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    x, settings = images(40), ColourSettings(strength=1.0, jitter=1.0)
    factors, order = colour._draw_jitter(SEEDS[:40], "view0", settings)
    got = colour.colour_jitter(x, factors, order)
    for index in range(40):
        expected = x[index]
        for op in order[index].tolist():
            expected = ops[op](expected, factors[index, op].item())
        torch.testing.assert_close(got[index], expected, rtol=1e-4, atol=2e-5)
    assert len({tuple(row) for row in order.tolist()}) > 15


def test_greyscale_and_blur_equal_torchvision() -> None:
    from torchvision.transforms.v2 import functional as tv

    x, sigma = images(4, px=64), torch.tensor([0.1, 0.5, 1.1, 2.0])
    torch.testing.assert_close(colour.greyscale(x), tv.rgb_to_grayscale(x))
    got = colour.gaussian_blur(x, sigma, torch.tensor([True, True, True, True]))
    for index in range(4):
        expected = tv.gaussian_blur(x[index], [7, 7], [sigma[index].item()] * 2)
        torch.testing.assert_close(got[index], expected, rtol=1e-5, atol=1e-5)


def test_blur_neither_changes_nor_reads_inactive_samples() -> None:
    x, sigma = images(4), torch.tensor([0.2, 0.7, 1.3, 2.0])
    everywhere = colour.gaussian_blur(x, sigma, torch.ones(4, dtype=torch.bool))
    some = colour.gaussian_blur(x, sigma, torch.tensor([True, False, False, True]))
    torch.testing.assert_close(some[[0, 3]], everywhere[[0, 3]], atol=1e-7, rtol=1e-6)
    assert torch.equal(some[[1, 2]], x[[1, 2]])


def test_inactive_samples_stay_bit_equal() -> None:
    x, seeds = images(8), SEEDS[:8]
    still = ColourSettings(jitter=0, grey=0, blur=0, solarise=0, band_drop=0)
    assert torch.equal(colour.rgb_view(x, seeds, "view0", still), x)
    assert torch.equal(colour.gaussian_blur(x, torch.ones(8), torch.zeros(8, dtype=torch.bool)), x)
    torch.testing.assert_close(colour.spectral_view(x, seeds, "view0", still), x)


def test_solarisation_inverts_the_bright_half() -> None:
    x = images(50)
    always = ColourSettings(jitter=0, grey=0, blur=0, solarise=1)
    assert torch.equal(colour.rgb_view(x, SEEDS[:50], "view0", always), torch.where(x >= 0.5, 1 - x, x))


@pytest.mark.parametrize("view", [colour.rgb_view, colour.spectral_view, colour.sar_view])
def test_views_do_not_depend_on_the_batch(view) -> None:
    x, settings = images(12), ColourSettings(strength=1.0, solarise=0.2, band_drop=0.3)
    whole = view(x, SEEDS[:12], "view0", settings)
    pick = torch.tensor([7, 2, 11])
    torch.testing.assert_close(view(x[pick], SEEDS[:12][pick], "view0", settings), whole[pick], rtol=1e-6, atol=1e-6)
    assert not torch.equal(view(x, SEEDS[:12], "view1", settings), whole)


def test_probabilities() -> None:
    x, settings = images(400, px=4), ColourSettings(strength=1.0, jitter=0.8, grey=0.2, blur=0)
    factors, _ = colour._draw_jitter(SEEDS, "view0", settings)
    assert (factors[:, 3] != 0).float().mean() == pytest.approx(0.8, abs=0.06)
    assert factors[:, :3].min() >= 0.2
    assert factors[:, :3].max() <= 1.8
    assert factors[:, 3].abs().max() <= 0.2
    y = colour.rgb_view(x, SEEDS, "view0", ColourSettings(jitter=0, grey=0.2, blur=0))
    assert (y[:, 0] == y[:, 1]).all(dim=2).all(dim=1).float().mean() == pytest.approx(0.2, abs=0.06)


def test_band_drop_keeps_at_least_one_band() -> None:
    x = torch.rand(400, 2, 4, 4)
    y = colour.band_drop(x, SEEDS, "view0", 0.9)
    blank = y.std(dim=(2, 3)) < 1e-6
    assert blank.any(dim=1).float().mean() > 0.8
    assert not blank.all(dim=1).any()
    torch.testing.assert_close(y.mean(dim=(2, 3)), x.mean(dim=(2, 3)))
