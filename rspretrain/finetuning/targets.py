"""Targets: the labels of a batch, from a table or from the part of a land-cover map inside a view.

Labels from a map are those of the window, not of the whole patch (docs/methods.md, DFC2020 protocol). The map is
cropped like the images, and its pixels are counted. It is never resampled, because the mean of two class codes is a
third class.
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

MIN_COVER = 0.1  # fraction of the window's pixels, invalid ones included, that a class must cover (multi-label)


class Targets(ABC):
    """Batch -> labels [B K] bool. Not an nn.Module: labels are neither part of the weights nor bound to a device."""

    multi: bool  # whether an image may have several labels, or none; otherwise it has one
    groups: tuple[str, ...]  # groups of the batch that `of` reads
    # Whether a single-label image may have no label; such an image is excluded from loss and metrics.
    may_be_missing: bool

    @abstractmethod
    def of(self, batch: Batch, views: TrainViews) -> Tensor:
        """[B K] bool: the labels of the batch as seen through `views`."""


@final
class TableTargets(Targets):
    """Labels from a table: the same for all views of a sample."""

    groups, may_be_missing = (), False

    def __init__(self, hot: Tensor, multi: bool) -> None:
        """`hot` [rows of the shard set, K] bool; rows that occur in no batch may be empty."""
        self._hot, self.multi = hot, multi

    def of(self, batch: Batch, views: TrainViews) -> Tensor:
        """See Targets."""
        return self._hot[torch.from_numpy(batch.rows)]


@final
class MapTargets(Targets):
    """Labels from the pixels of a map inside the window. Codes that belong to no class are invalid.

    Single-label: the most frequent class (the first of equals), or none if invalid pixels are more frequent.
    Multi-label: all classes that cover at least MIN_COVER of the window.
    """

    def __init__(self, group: Group, band: str, codes: Sequence[Sequence[int]], multi: bool) -> None:
        """`codes`: the codes of each class, in the order of the classes."""
        self.groups, self.multi, self.may_be_missing = (group.name,), multi, not multi
        self._group, self._channel = group.name, group.bands.index(band)
        self._codes = [torch.tensor(some) for some in codes]

    def of(self, batch: Batch, views: TrainViews) -> Tensor:
        """See Targets."""
        return self.within(batch, views.window(batch).boxes)

    def within(self, batch: Batch, boxes: Tensor) -> Tensor:
        """[B K] bool: labels of windows [B 4] (as in Geometry). A pixel is in a window if its centre is."""
        codes = batch.images[self._group][:, self._channel]  # [B H W]
        sizes = self.sizes(batch).double()
        rows = _pixels_between(codes.shape[1], sizes[:, 0], boxes[:, 0], boxes[:, 2])
        columns = _pixels_between(codes.shape[2], sizes[:, 1], boxes[:, 1], boxes[:, 3])
        inside = rows[:, :, None] & columns[:, None, :]
        counts = torch.stack(
            [(torch.isin(codes, some.to(codes)) & inside).sum(dim=(1, 2)) for some in self._codes], dim=1
        )  # [B K]
        pixels = inside.sum(dim=(1, 2))
        if self.multi:
            return counts.double() / pixels[:, None] >= MIN_COVER  # exact: k / (10 k) equals 0.1 in float64
        is_valid = counts.amax(dim=1) >= (pixels - counts.sum(dim=1)).clamp(min=1)
        majority = torch.nn.functional.one_hot(counts.argmax(dim=1), counts.shape[1]).bool()
        return majority & is_valid[:, None]

    def sizes(self, batch: Batch) -> Tensor:
        """[B 2] (or [1 2] if all are equal): height and width of the maps."""
        images = batch.images[self._group]
        return batch.sizes.get(self._group, torch.tensor([images.shape[2:]], device=images.device))

    def table(self, shards: ShardSet, rows: Rows, crop_px: int | None) -> Tensor:
        """[N K] bool: labels of the evaluation windows of `rows` (ascending); the same on all ranks."""
        mine = local_rows(rows)
        parts = [torch.zeros(0, len(self._codes), dtype=torch.bool)]
        for batch in evaluation_batches(shards, self.groups, mine, 64) if len(mine) else ():
            whole = full_geometry(len(batch), batch.seeds.device)
            window = whole if crop_px is None else centre_crop(self.sizes(batch), crop_px, len(batch))
            parts.append(self.within(batch, window.boxes))
        (hot,) = gather_samples(mine, torch.cat(parts).byte())[1]
        return hot.bool()


def _pixels_between(canvas: int, size: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """[B canvas] bool: pixels whose centre is in [low, high), as a fraction of the image `size` [B]."""
    centres = (torch.arange(canvas, device=low.device, dtype=torch.float64) + 0.5) / size[:, None]
    return (centres >= low[:, None]) & (centres < high[:, None])


def choose_targets(
    shards: ShardSet, data: FinetuneData, views: TrainViews, from_map: str | None
) -> tuple[Targets, FinetuneData, Tensor]:
    """The training targets, the samples, and their labels for evaluation [rows, K] bool.

    With a single-label map, images without a label in their evaluation window are excluded from validation and test.
    ValueError if the map does not exist, lacks a class, or has another pixel grid than the views.
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
            "at least one. Check the maps with `rspretrain inspect`, or choose another labels.test_split."
        )
    return targets, replace(data, val=kept[0], test=kept[1]), hot


def _map_targets(shards: ShardSet, data: FinetuneData, views: TrainViews, band: str) -> MapTargets:
    group = _map_group(shards, band)
    names = CODE_NAMES.get(band, {})
    codes = [[code for code, name in names.items() if name == wanted] for wanted in data.classes]
    if unknown := [name for name, some in zip(data.classes, codes, strict=True) if not some]:
        raise ValueError(
            f"labels.from_map: {band!r} has no code for the classes {unknown} of {data.nomenclature!r}; its classes "
            f"are {sorted(set(names.values()))}. Set labels.nomenclature to match the map, or remove labels.from_map."
        )
    sources = [source for one in views.sensor_inputs().values() for source in one.source_groups]
    finest = max((source.shape for source in sources), key=lambda shape: shape or (0, 0))
    if group.shape != finest:
        raise ValueError(
            f"labels.from_map: {band!r} has {group.shape} pixels, the finest input images have {finest}; expected the "
            "same grid, because windows are cropped in its pixels. Add a band with that grid, or remove "
            "labels.from_map."
        )
    if views.settings.independent:
        raise ValueError(
            "labels.from_map: got a map together with views.independent, which crops each sensor differently; expected "
            "one window for all sensors. Set views.independent=false, or remove labels.from_map."
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
