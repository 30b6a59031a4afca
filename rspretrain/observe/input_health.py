"""Is what goes in sound? Every band against the shard set's own statistics, and images that occur twice in a batch.

Looks at 16 x 16 pixels of every image, spread evenly: 2 % of BigEarthNet's, so that a look costs what reading a few
images does. What the numbers mean is judged in verdict.py.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rspretrain.batch import Batch
from rspretrain.sensors import Group

SIDE = 16  # looked-at pixels along each side of an image
DUPLICATES = "input/duplicates"
OFFSET, SPREAD = "offset", "spread"
Statistics = Mapping[str, tuple[float, float]]  # band -> mean, standard deviation


def input_health(
    batch: Batch, groups: Sequence[Group], bands: Mapping[str, Sequence[str]], statistics: Mapping[str, Statistics]
) -> dict[str, Tensor]:
    """Numbers about one rank's batch of raw pixels, float64, of the `bands` (sensor -> names) that a run uses.

    `input/<group>/<band>/offset`: the batch's mean minus the shard set's, in the shard set's standard deviations.
    `input/<group>/<band>/spread`: the batch's standard deviation over the shard set's; 0 for a constant band.
    `input/duplicates`: the share of samples whose looked-at pixels equal an earlier sample's in every group.
    `statistics`: group -> band -> mean and deviation; a band without them is left out.
    """
    found: dict[str, Tensor] = {}
    prints = []
    for group in groups:
        pixels = look(batch.images[group.name], batch.sizes.get(group.name))
        prints.append(pixels.flatten(1))
        known = statistics.get(group.name, {})
        for channel, band in enumerate(group.bands):
            if band in bands.get(group.sensor, ()) and band in known:
                name = f"input/{group.name}/{band}"
                offset, spread = _against(pixels[:, channel], group.nodata, *known[band])
                found |= {f"{name}/{OFFSET}": offset, f"{name}/{SPREAD}": spread}
    # Exact in float64 for every dtype that archives have, so equal rows are equal pixels.
    distinct = len(torch.unique(torch.nan_to_num(torch.cat(prints, dim=1)), dim=0))
    found[DUPLICATES] = torch.tensor(1.0 - distinct / len(batch), dtype=torch.float64)
    return found


def look(images: Tensor, sizes: Tensor | None) -> Tensor:
    """[B C H W] to [B C 16 16] float64: pixels spread evenly over each image, which is the `sizes` part of its canvas.

    Images of fewer pixels show some of them more than once.
    """
    share = (torch.arange(SIDE, device=images.device) + 0.5) / SIDE
    if sizes is None:
        rows, columns = (torch.floor(share * side).long() for side in images.shape[2:])
        return images[:, :, rows[:, None], columns].double()
    rows, columns = (torch.floor(share * side[:, None]).long() for side in sizes.T)  # [B 16]
    samples = torch.arange(len(images), device=images.device)[:, None, None]
    return images[samples, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).double()


def _against(pixels: Tensor, nodata: float | None, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Offset and spread of one band's pixels, without nodata; a shard set's constant band has offset and spread 0."""
    values = pixels.flatten()
    if nodata is not None:
        values = values[values != nodata]
    if std == 0.0 or not len(values):
        return torch.zeros(2, dtype=torch.float64).unbind()  # type: ignore[return-value]
    return (values.mean() - mean) / std, values.std(correction=0) / std
