"""Crop, flip and resize a whole batch with two batched matrix products; every sample has its own box.

The separable form antialiases (grid_sample does not, and aliasing turns speckle and edges into noise), is exact at
scale 1 (weights 0 and 1, pixels bit-equal), and is plain GEMM on any device. A flip reverses the rows of the weights;
the dihedral group needs one more transpose. The filter is that of
F.interpolate(mode="bilinear", antialias=True, align_corners=False), applied to the crop. On a GPU keep float32 products
exact (torch.backends.cuda.matmul.fp32_precision "ieee", the default): TF32 rounds pixels to 10 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Box edges are rounded to 1/256 pixel, so that relative boxes of whole pixels stay whole after float rounding.
_SNAP = 256.0
_SLICE = 1 << 22  # pixels of all bands processed at once on a CPU: 16 MB as float32


@dataclass(frozen=True)
class Geometry:
    """Crop and flips of every sample, relative to the image: one box fits the 10, 20 and 60 m grids and Sentinel-1."""

    boxes: Tensor  # [B 4] float64 top, left, bottom, right in [0, 1]
    flips: Tensor  # [B 2] bool: vertical, horizontal; applied after the crop
    transposes: Tensor  # [B] bool: rows and columns exchanged, applied last


def full_geometry(num: int, device: torch.device) -> Geometry:
    """The whole image, not flipped."""
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64, device=device).expand(num, 4)
    return Geometry(
        boxes,
        torch.zeros(num, 2, dtype=torch.bool, device=device),
        torch.zeros(num, dtype=torch.bool, device=device),
    )


def resample_weights(
    low: Tensor, high: Tensor, flips: Tensor, size_in: Tensor | int, canvas: int, size_out: int
) -> Tensor:
    """[B size_out canvas] float32: row i holds the weight of every input pixel in output pixel i; rows sum to 1.

    low, high [B]: edges of the crop in [0, 1] of the image. The image is the first `size_in` pixels ([B] or one number)
    of the canvas; the rest is padding. Taps stay on pixels that the box touches, as if the image was cropped first.
    """
    low = torch.round(low.double() * size_in * _SNAP).div_(_SNAP)
    high = torch.round(high.double() * size_in * _SNAP).div_(_SNAP)
    scale = ((high - low) / size_out)[:, None]  # input pixels per output pixel
    steps = torch.arange(size_out, device=low.device, dtype=torch.float64) + 0.5
    steps = torch.where(flips[:, None], size_out - steps, steps)
    centres = (low[:, None] + steps * scale).float()[:, :, None]  # [B size_out 1]
    pixels = torch.arange(canvas, device=low.device, dtype=torch.float32) + 0.5
    reach = scale.clamp(min=1.0).float()[:, :, None]
    weights = (centres - pixels).abs_().div_(reach).neg_().add_(1.0).clamp_(min=0.0)  # [B size_out canvas] triangle
    inside = (pixels > low.floor()[:, None]) & (pixels < high.ceil()[:, None])  # [B canvas]
    weights *= inside[:, None, :]
    return weights.div_(weights.sum(dim=2, keepdim=True))


def resample(
    images: Tensor,
    geometries: Sequence[Geometry],
    px: int,
    sizes: Tensor | None = None,
    limits: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """One [B C px px] float32 per geometry from images [B C H W] of any dtype; the pixels are read once for all views.

    `sizes` [B 2]: size of each image if the canvas is padded. `limits` (low [C], high [C]): clip pixels first.
    On a CPU the batch is processed in slices that reuse memory: 53 ms instead of 82 ms for two views of
    128 x 3 x 256 x 256.
    """
    step = len(images) if images.is_cuda else max(1, _SLICE // max(images[0].numel(), 1))
    parts = []
    for start in range(0, len(images), step):
        part = slice(start, start + step)
        pixels = _rows_first(images[part], None if sizes is None else sizes[part], limits)
        some = [Geometry(g.boxes[part], g.flips[part], g.transposes[part]) for g in geometries]
        parts.append(_resample_slice(pixels, some, px, None if sizes is None else sizes[part]))
    return [torch.cat(views) for views in zip(*parts, strict=True)]


def _rows_first(images: Tensor, sizes: Tensor | None, limits: tuple[Tensor, Tensor] | None) -> Tensor:
    """[B H C W] float32: in this layout both products are plain GEMMs. The conversion to float32 copies anyway."""
    num, channels, height, width = images.shape
    pixels = torch.empty(num, height, channels, width, device=images.device)
    pixels.copy_(images.transpose(1, 2))
    if limits is not None:
        torch.clamp_(pixels, limits[0][:, None], limits[1][:, None])
    if sizes is not None and images.is_floating_point():
        # The padding of a reused buffer may hold NaN, and 0 * NaN is NaN.
        rows = torch.arange(height, device=images.device) >= sizes[:, 0, None]
        columns = torch.arange(width, device=images.device) >= sizes[:, 1, None]
        pixels.masked_fill_(rows[:, :, None, None] | columns[:, None, None, :], 0.0)
    return pixels


def _resample_slice(pixels: Tensor, geometries: Sequence[Geometry], px: int, sizes: Tensor | None) -> list[Tensor]:
    num, height, channels, width = pixels.shape
    rows_in, columns_in = (height, width) if sizes is None else (sizes[:, 0], sizes[:, 1])
    rows = [resample_weights(g.boxes[:, 0], g.boxes[:, 2], g.flips[:, 0], rows_in, height, px) for g in geometries]
    tall = torch.bmm(torch.cat(rows, dim=1), pixels.view(num, height, channels * width))  # [B V*px C*W]
    tall = tall.view(num, len(geometries), px * channels, width)
    views = []
    for index, g in enumerate(geometries):
        columns = resample_weights(g.boxes[:, 1], g.boxes[:, 3], g.flips[:, 1], columns_in, width, px)  # [B px W]
        view = torch.bmm(tall[:, index], columns.transpose(1, 2)).view(num, px, channels, px).transpose(1, 2)
        views.append(torch.where(g.transposes[:, None, None, None], view.transpose(2, 3), view))
    return views
