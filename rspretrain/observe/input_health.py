"""Checks of input batches: per-band statistics against those of the shard set, and duplicate images.

Reads 16 x 16 evenly spaced pixels of every image, 2 % of a BigEarthNet patch, so a check costs as much as reading a few
images. verdict.py interprets the numbers.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rspretrain.batch import Batch
from rspretrain.sensors import Group

SIDE = 16  # sampled pixels along each side of an image
DUPLICATES = "input/duplicates"
OFFSET, SPREAD = "offset", "spread"
Statistics = Mapping[str, tuple[float, float]]  # band -> mean, standard deviation


def input_health(
    batch: Batch, groups: Sequence[Group], bands: Mapping[str, Sequence[str]], statistics: Mapping[str, Statistics]
) -> dict[str, Tensor]:
    """Statistics of one rank's raw batch, float64, for the `bands` (sensor -> names) that a run uses.

    `input/<group>/<band>/offset`: batch mean minus shard-set mean, in standard deviations of the shard set.
    `input/<group>/<band>/spread`: batch standard deviation divided by that of the shard set; 0 for a constant band.
    `input/duplicates`: fraction of samples whose sampled pixels equal those of an earlier sample in every group.
    `statistics`: group -> band -> mean and standard deviation; bands without an entry are skipped.
    """
    found: dict[str, Tensor] = {}
    fingerprints = []
    for group in groups:
        pixels = sample_pixels(batch.images[group.name], batch.sizes.get(group.name))
        fingerprints.append(pixels.flatten(1))
        known = statistics.get(group.name, {})
        for channel, band in enumerate(group.bands):
            if band in bands.get(group.sensor, ()) and band in known:
                name = f"input/{group.name}/{band}"
                offset, spread = _offset_and_spread(pixels[:, channel], group.nodata, *known[band])
                found |= {f"{name}/{OFFSET}": offset, f"{name}/{SPREAD}": spread}
    # float64 holds every dtype of the archives exactly, so equal rows mean equal pixels.
    distinct = len(torch.unique(torch.nan_to_num(torch.cat(fingerprints, dim=1)), dim=0))
    found[DUPLICATES] = torch.tensor(1.0 - distinct / len(batch), dtype=torch.float64)
    return found


def sample_pixels(images: Tensor, sizes: Tensor | None) -> Tensor:
    """Evenly spaced pixels [B C 16 16] float64 of images [B C H W]; `sizes` [B 2] is each image's part of the canvas.

    Pixels of smaller images are repeated.
    """
    share = (torch.arange(SIDE, device=images.device) + 0.5) / SIDE
    if sizes is None:
        rows, columns = (torch.floor(share * side).long() for side in images.shape[2:])
        return images[:, :, rows[:, None], columns].double()
    rows, columns = (torch.floor(share * side[:, None]).long() for side in sizes.T)  # [B 16]
    samples = torch.arange(len(images), device=images.device)[:, None, None]
    return images[samples, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).double()


def _offset_and_spread(pixels: Tensor, nodata: float | None, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Offset and spread of one band's pixels without nodata; both 0 if the band is constant in the shard set."""
    values = pixels.flatten()
    if nodata is not None:
        values = values[values != nodata]
    if std == 0.0 or not len(values):
        return torch.zeros(2, dtype=torch.float64).unbind()  # type: ignore[return-value]
    return (values.mean() - mean) / std, values.std(correction=0) / std
