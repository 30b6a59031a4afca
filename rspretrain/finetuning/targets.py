"""What the samples of a batch are: what a table says of them, or what of a map a view shows.

A map's labels are those of the window, not of the whole patch (methods.md A.7, DFC2020): it is cut where the images are
and counted pixel by pixel, never resampled, because a mean of two codes is a third class.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from rspretrain.arrays import Rows
from rspretrain.batch import Batch
from rspretrain.evaluation.gather import gather_samples, local_rows
from rspretrain.evaluation.labels import FinetuneData
from rspretrain.sensors import Group
from rspretrain.shardset.index import ShardSet
from rspretrain.shardset.inspection.pictures import CODE_NAMES
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.crops import centre_crop
from rspretrain.transforms.resample import full_geometry
from rspretrain.transforms.train_views import TrainViews

SHARE = 0.1  # of all pixels in the window, invalid ones included, that make one of several labels (methods.md A.7)


class Targets(ABC):
    """Batch -> labels [B K] bool. No module: labels belong to the shard set, neither to the weights nor to a device."""

    multi: bool  # whether an image may have several labels, or none; else it has one
    groups: tuple[str, ...]  # that `of` reads from a batch
    # Whether an image of one label may turn out to have none, and has then no part in loss and figures.
    may_lack: bool

    @abstractmethod
    def of(self, batch: Batch, views: TrainViews) -> Tensor:
        """[B K] bool, of what `views` shows of the batch."""


@final
class TableTargets(Targets):
    """The same for every view of a sample."""

    groups, may_lack = (), False

    def __init__(self, hot: Tensor, multi: bool) -> None:
        """`hot` [rows of the shard set, K] bool; rows that no batch has may be empty."""
        self._hot, self.multi = hot, multi

    def of(self, batch: Batch, views: TrainViews) -> Tensor:
        """See Targets."""
        return self._hot[torch.from_numpy(batch.rows)]


@final
class MapTargets(Targets):
    """One label: the most frequent class in the window, the earlier one of equals, none where more of it is invalid.

    Several: every class that covers SHARE of the window at least. Whatever codes belong to no class are invalid.
    """

    def __init__(self, group: Group, band: str, codes: Sequence[Sequence[int]], multi: bool) -> None:
        """`codes`: of every class, in the order of the classes."""
        self.groups, self.multi, self.may_lack = (group.name,), multi, not multi
        self._group, self._channel = group.name, group.bands.index(band)
        self._codes = [torch.tensor(some) for some in codes]

    def of(self, batch: Batch, views: TrainViews) -> Tensor:
        """See Targets."""
        return self.within(batch, views.window(batch).boxes)

    def within(self, batch: Batch, boxes: Tensor) -> Tensor:
        """[B K] bool of windows [B 4] as in Geometry; a pixel belongs to the window that its middle lies in."""
        codes = batch.images[self._group][:, self._channel]  # [B H W]
        sizes = self.sizes(batch).double()
        rows = _between(codes.shape[1], sizes[:, 0], boxes[:, 0], boxes[:, 2])
        columns = _between(codes.shape[2], sizes[:, 1], boxes[:, 1], boxes[:, 3])
        inside = rows[:, :, None] & columns[:, None, :]
        counts = torch.stack(
            [(torch.isin(codes, some.to(codes)) & inside).sum(dim=(1, 2)) for some in self._codes], dim=1
        )  # [B K]
        pixels = inside.sum(dim=(1, 2))
        if self.multi:
            return counts.double() / pixels[:, None] >= SHARE  # exact: k / 10 k is the double that 0.1 is
        won = counts.amax(dim=1) >= (pixels - counts.sum(dim=1)).clamp(min=1)
        winner = torch.nn.functional.one_hot(counts.argmax(dim=1), counts.shape[1]).bool()
        return winner & won[:, None]

    def sizes(self, batch: Batch) -> Tensor:
        """[B 2] (or [1 2] where all are equal) height and width of the maps."""
        images = batch.images[self._group]
        return batch.sizes.get(self._group, torch.tensor([images.shape[2:]], device=images.device))

    def table(self, shards: ShardSet, rows: Rows, crop_px: int | None) -> Tensor:
        """[N K] bool of the windows in which `rows`, ascending, are examined; the same on all ranks."""
        mine = local_rows(rows)
        parts = [torch.zeros(0, len(self._codes), dtype=torch.bool)]
        for batch in evaluation_batches(shards, self.groups, mine, 64) if len(mine) else ():
            whole = full_geometry(len(batch), batch.seeds.device)
            window = whole if crop_px is None else centre_crop(self.sizes(batch), crop_px, len(batch))
            parts.append(self.within(batch, window.boxes))
        (hot,) = gather_samples(mine, torch.cat(parts).byte())[1]
        return hot.bool()


def _between(canvas: int, size: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """[B canvas] bool: pixels of images of `size` [B] whose middle lies in [low, high) of the image."""
    middles = (torch.arange(canvas, device=low.device, dtype=torch.float64) + 0.5) / size[:, None]
    return (middles >= low[:, None]) & (middles < high[:, None])


def choose_targets(
    shards: ShardSet, data: FinetuneData, views: TrainViews, from_map: str | None
) -> tuple[Targets, FinetuneData, Tensor]:
    """What training learns from; the samples; and their labels [rows, K] bool as examinations count them.

    With a map, images whose window has no label of the one that they may have are examined no more. ValueError where
    there is no such map, where it does not name every class, and where it does not lie on the grid of the views.
    """
    hot = torch.from_numpy(data.targets(shards))
    if from_map is None:
        return TableTargets(hot, data.multi), data, hot
    targets = _map_targets(shards, data, views, from_map)
    hot = hot.clone()
    kept = []
    for rows in (data.val, data.test):
        found = targets.table(shards, rows, views.settings.crop_px)
        hot[torch.from_numpy(rows)] = found
        labelled: np.ndarray = (found.any(dim=1) | targets.multi).numpy()
        kept.append(rows[labelled])
    if not len(kept[1]):
        raise ValueError(
            f"labels.from_map: {from_map!r} has no class in the windows of all {len(data.test)} test images, expected "
            "one at least. Look at the maps with `rspretrain inspect`, or choose another labels.test_split."
        )
    return targets, replace(data, val=kept[0], test=kept[1]), hot


def _map_targets(shards: ShardSet, data: FinetuneData, views: TrainViews, band: str) -> MapTargets:
    group = _map_group(shards, band)
    names = CODE_NAMES.get(band, {})
    codes = [[code for code, name in names.items() if name == wanted] for wanted in data.classes]
    if unknown := [name for name, some in zip(data.classes, codes, strict=True) if not some]:
        raise ValueError(
            f"labels.from_map: {band!r} has no code for the classes {unknown} of {data.nomenclature!r}; it knows "
            f"{sorted(set(names.values()))}. Set labels.nomenclature to one of its own, or leave labels.from_map out."
        )
    sources = [source for one in views.sensor_inputs().values() for source in one.source_groups]
    finest = max((source.shape for source in sources), key=lambda shape: shape or (0, 0))
    if group.shape != finest:
        raise ValueError(
            f"labels.from_map: {band!r} has {group.shape} pixels, the finest images that the classifier sees have "
            f"{finest}, expected one grid: windows are cut in its pixels. Add a band of that grid, or leave "
            "labels.from_map out."
        )
    if views.settings.independent:
        raise ValueError(
            "labels.from_map: got a map with views.independent, which shows another place of every sensor, expected "
            "one window for all. Set views.independent=false, or leave labels.from_map out."
        )
    return MapTargets(group, band, codes, data.multi)


def _map_group(shards: ShardSet, band: str) -> Group:
    maps = {name: group for group in shards.groups.values() if group.units == "class" for name in group.bands}
    if band not in maps:
        raise ValueError(
            f"labels.from_map: got {band!r}, expected one of the maps of {shards.path}: {sorted(maps) or 'none'}. "
            "Build shards with their maps (`rspretrain build`), or leave labels.from_map out."
        )
    return maps[band]
