"""Photometric augmentation, after resampling: SimCLR's for RGB, separate pipelines for multispectral and SAR bands.

Chen et al. 2020, appendix A, with the semantics of torchvision's functional ops; `view` and `seeds` key every draw by
sample. Brightness, contrast and saturation are one blend each, `lerp(reference, x, factor)`, so samples that apply the
operations in different orders share one pass. See docs/methods.md, SimCLR and Random views.
"""

import torch
from pydantic import Field
from torch import Tensor

from rspretrain.rng_torch import normal, uniform
from rspretrain.settings import Settings

_GREY = (0.2989, 0.587, 0.114)  # torchvision's rgb_to_grayscale
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


class ColourSettings(Settings):
    """Photometric augmentation of a view. SimCLR uses strength 1 for ImageNet and 0.5 for CIFAR-10."""

    strength: float = Field(
        default=0.5,
        ge=0.0,
        description="Factor on brightness, contrast, saturation and hue, and on the jitter of other sensors.",
    )
    brightness: float = Field(
        default=0.8, ge=0.0, description="Maximum change of the brightness factor at strength 1; RGB only."
    )
    contrast: float = Field(
        default=0.8, ge=0.0, description="Maximum change of the contrast factor at strength 1; RGB only."
    )
    saturation: float = Field(
        default=0.8, ge=0.0, description="Maximum change of the saturation factor at strength 1; RGB only."
    )
    hue: float = Field(
        default=0.2, ge=0.0, description="Maximum hue shift at strength 1, as a share of the colour circle; RGB only."
    )
    jitter: float = Field(
        default=0.8,
        ge=0.0,
        le=1.0,
        description="Probability of colour jitter, or of spectral jitter for other sensors.",
    )
    grey: float = Field(default=0.2, ge=0.0, le=1.0, description="Probability of greyscale; RGB only.")
    blur: float = Field(default=0.5, ge=0.0, le=1.0, description="Probability of Gaussian blur; not for SAR.")
    solarise: float = Field(default=0.0, ge=0.0, le=1.0, description="Probability of solarisation at 0.5; RGB only.")
    band_drop: float = Field(
        default=0.05, ge=0.0, lt=1.0, description="Probability of replacing a band by its mean, per band; not for RGB."
    )


class FirstColour(ColourSettings):
    """The first view in BYOL and iBOT (augmentation A): jitter of 0.4, 0.4, 0.2 and 0.1; always blurred."""

    saturation: float = Field(
        default=0.4, ge=0.0, description="Maximum change of the saturation factor at strength 1; RGB only."
    )
    blur: float = Field(default=1.0, ge=0.0, le=1.0, description="Probability of Gaussian blur; not for SAR.")


class SecondColour(FirstColour):
    """The second view in BYOL (augmentation A'): as the first, but rarely blurred and sometimes solarised."""

    blur: float = Field(default=0.1, ge=0.0, le=1.0, description="Probability of Gaussian blur; not for SAR.")
    solarise: float = Field(default=0.2, ge=0.0, le=1.0, description="Probability of solarisation at 0.5; RGB only.")


def greyscale(x: Tensor) -> Tensor:
    """Luma [B 1 H W] of RGB images [B 3 H W]."""
    return (x[:, 0] * _GREY[0]).add_(x[:, 1], alpha=_GREY[1]).add_(x[:, 2], alpha=_GREY[2])[:, None]


def shift_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of x [N 3 H W] in [0, 1] by shift [N], in turns; value and saturation stay.

    No HSV image is built: channel n of (5, 3, 1) is v - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + 6 h) mod 6.
    """
    red, green, blue = x.unbind(1)
    value, chroma = x.amax(dim=1), x.amax(dim=1) - x.amin(dim=1)
    safe = torch.where(chroma == 0, 1.0, chroma)
    by_green = (blue - red).div_(safe).add_(2.0)
    by_blue = (red - green).div_(safe).add_(4.0)
    hue = torch.where(value == green, by_green, by_blue)
    hue = torch.where(value == red, (green - blue).div_(safe), hue)  # [N H W] in sixths of a turn, -1 to 5
    hue += 6.0 * shift[:, None, None]
    offsets = torch.tensor([5.0, 3.0, 1.0], device=x.device)[:, None, None]
    k = (hue[:, None] + offsets).remainder_(6.0)
    return value[:, None] - torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0).mul_(chroma[:, None])


def colour_jitter(x: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Jitter x [B 3 H W] in [0, 1].

    factors [B 4]: brightness, contrast and saturation factors and hue shift; (1, 1, 1, 0) leaves a sample unchanged.
    order [B 4]: the order of the four operations for each sample.
    """
    x = x.clone()
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], device=x.device)
    for slot in range(4):
        op = order[:, slot]
        factor = torch.where(op == HUE, 1.0, factors.gather(1, op[:, None])[:, 0])[:, None, None, None]
        grey = greyscale(x)
        reference = grey * (op == SATURATION)[:, None, None, None]
        reference += grey.mean(dim=(1, 2, 3), keepdim=True) * (op == CONTRAST)[:, None, None, None]
        x = torch.lerp(reference.expand_as(x), x, factor).clamp_(0.0, 1.0)
        shifted = ((op == HUE) & (factors[:, HUE] != neutral[HUE])).nonzero()[:, 0]
        x[shifted] = shift_hue(x[shifted], factors[shifted, HUE])
    return x


def blur_matrices(sigma: Tensor, active: Tensor, px: int) -> Tensor:
    """[B px px] matrices whose product from the left blurs columns with a Gaussian of sigma [B] pixels.

    The identity where not active. The kernel is odd, about px / 10 wide, with reflected borders, as in torchvision's
    gaussian_blur.
    """
    reach = max(1, px // 20)
    taps = torch.arange(-reach, reach + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]).square())
    kernel = torch.where(active[:, None], kernel / kernel.sum(dim=1, keepdim=True), (taps == 0).float())  # [B K]
    source = (torch.arange(px, device=sigma.device)[:, None] + taps).abs()  # [px K]
    source = (px - 1) - ((px - 1) - source).abs()
    matrices = torch.zeros(len(sigma), px, px, device=sigma.device)
    # Two reflected taps may fall on the same pixel, so weights are added.
    return matrices.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, px, -1))


def gaussian_blur(x: Tensor, sigma: Tensor, active: Tensor) -> Tensor:
    """Blur x [B C px px] along both axes where active [B]; sigma [B] in pixels."""
    if not x.is_cuda and not active.all():  # on a GPU this would synchronise host and device
        blurred = x.clone()
        blurred[active] = gaussian_blur(x[active], sigma[active], active[active])
        return blurred
    num, channels, px, _ = x.shape
    matrices = blur_matrices(sigma, active, px)
    across = torch.bmm(x.reshape(num, channels * px, px), matrices.transpose(1, 2)).view(num, channels, px, px)
    down = torch.bmm(matrices, across.transpose(1, 2).reshape(num, px, channels * px))
    return down.view(num, px, channels, px).transpose(1, 2)


def _random_blur(x: Tensor, seeds: Tensor, view: str, probability: float) -> Tensor:
    if probability == 0.0:
        return x
    u = uniform(seeds, f"{view}/blur", (2,))
    return gaussian_blur(x, 0.1 + 1.9 * u[:, 0], u[:, 1] < probability)


def rgb_view(x: Tensor, seeds: Tensor, view: str, settings: ColourSettings) -> Tensor:
    """Augment RGB images x [B 3 px px] in [0, 1] as SimCLR does: jitter, greyscale, blur, solarisation."""
    x = colour_jitter(x, *_draw_jitter(seeds, view, settings))
    grey = uniform(seeds, f"{view}/grey") < settings.grey
    x = torch.where(grey[:, None, None, None], greyscale(x), x)
    x = _random_blur(x, seeds, view, settings.blur)
    if settings.solarise:
        solarised = (uniform(seeds, f"{view}/solarise") < settings.solarise)[:, None, None, None]
        x = torch.where(solarised & (x >= 0.5), 1.0 - x, x)
    return x


def _draw_jitter(seeds: Tensor, view: str, settings: ColourSettings) -> tuple[Tensor, Tensor]:
    """Factors [B 4] and order [B 4] for colour_jitter."""
    u = uniform(seeds, f"{view}/jitter", (4,))
    blends = [min(x * settings.strength, 1.0) for x in (settings.brightness, settings.contrast, settings.saturation)]
    max_change = torch.tensor([*blends, min(settings.hue * settings.strength, 0.5)], device=seeds.device)
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], device=seeds.device)
    factors = neutral + (2.0 * u - 1.0) * max_change
    active = (uniform(seeds, f"{view}/jitter_on") < settings.jitter)[:, None]
    order = uniform(seeds, f"{view}/jitter_order", (4,)).argsort(dim=1)
    return torch.where(active, factors, neutral), order


def spectral_view(x: Tensor, seeds: Tensor, view: str, settings: ColourSettings) -> Tensor:
    """Augment normalised optical bands x [B C px px]: gain and offset, blur, band drop. 12 bands have no hue."""
    x = spectral_jitter(x, seeds, view, settings)
    x = _random_blur(x, seeds, view, settings.blur)
    return band_drop(x, seeds, view, settings.band_drop)


def sar_view(x: Tensor, seeds: Tensor, view: str, settings: ColourSettings) -> Tensor:
    """Augment normalised backscatter x [B C px px] in dB: gain and offset, speckle, band drop. No blur.

    Multiplicative speckle is additive in dB. It is Gaussian, up to 0.05 s per pixel with s the strength, which is
    1.25 s dB under `fixed` scaling.
    """
    x = spectral_jitter(x, seeds, view, settings)
    sigma = 0.05 * settings.strength * uniform(seeds, f"{view}/speckle_sigma")
    x = x + normal(seeds, f"{view}/speckle", x.shape[1:]) * sigma[:, None, None, None]
    return band_drop(x, seeds, view, settings.band_drop)


def spectral_jitter(x: Tensor, seeds: Tensor, view: str, settings: ColourSettings) -> Tensor:
    """Random gain U(±0.4 s) and offset U(±0.1 s) per image, s the strength, plus a quarter of that range per band.

    In normalised units around each band's mean in the image, so the gain changes contrast and the offset brightness.
    """
    bands = x.shape[1]
    u = 2.0 * uniform(seeds, f"{view}/spectral", (2, bands + 1)) - 1.0  # [B 2 C+1]
    u = (u[:, :, :1] + 0.25 * u[:, :, 1:]) * settings.strength  # [B 2 C]
    active = (uniform(seeds, f"{view}/spectral_on") < settings.jitter)[:, None]
    gain = torch.where(active, 1.0 + 0.4 * u[:, 0], 1.0)[:, :, None, None]
    offset = torch.where(active, 0.1 * u[:, 1], 0.0)[:, :, None, None]
    return torch.lerp(x.mean(dim=(2, 3), keepdim=True).expand_as(x), x, gain) + offset


def band_drop(x: Tensor, seeds: Tensor, view: str, probability: float) -> Tensor:
    """Replace each band by its mean with this probability; at least one band of every sample stays."""
    if probability == 0.0:
        return x
    u = uniform(seeds, f"{view}/band_drop", (x.shape[1],))
    dropped = (u < probability) & (u < u.amax(dim=1, keepdim=True))
    return torch.where(dropped[:, :, None, None], x.mean(dim=(2, 3), keepdim=True), x)
