"""Patches of an archive as batches, without shards between: for images that are looked at once, to predict."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rspretrain.archives.base import Archive, Entry
from rspretrain.batch import Batch
from rspretrain.patch import Fault, Patch, PatchError, PatchExcluded
from rspretrain.shardset.footprints import corners_of
from rspretrain.shardset.rows import BOUNDS

_ELEMENTS = 1 << 27  # float32 numbers in a batch, 512 MB: scenes come in smaller batches than thumbnails


@final
class ArchiveLoader:
    """Reads entries once, in their order; what cannot be read is left out and kept as a fault, and the rest goes on.

    After the last batch: `rows`, the numbers of the entries that were read, in the order of the batches, and `corners`.
    """

    def __init__(
        self, archive: Archive, entries: Sequence[Entry], rows: NDArray[np.int64], batch_size: int, device: torch.device
    ) -> None:
        """`rows`: the numbers, in `entries`, of those to read."""
        self._archive, self._entries, self._wanted = archive, entries, rows
        self._batch_size, self._device = batch_size, device
        self.rows: list[int] = []
        self.faults: list[Fault] = []
        self.excluded: list[Fault] = []  # by the user's own options
        self._places: list[Patch] = []  # without pixels

    def __iter__(self) -> Iterator[Batch]:
        patches: list[tuple[int, Patch]] = []
        for row in self._wanted.tolist():
            entry = self._entries[row]
            try:
                patch = self._archive.read(entry)
            except PatchError as error:
                (self.excluded if isinstance(error, PatchExcluded) else self.faults).append(
                    Fault(entry.name, str(error))
                )
                continue
            patches.append((row, patch))
            if len(patches) == self._batch_size or _elements([each for _, each in patches]) > _ELEMENTS:
                yield self._batch(patches)
                patches = []
        if patches:
            yield self._batch(patches)

    def corners(self) -> NDArray[np.float64]:
        """[N 5 2]: where the images of `rows` lie, as `footprints.corners_of` has it."""
        edges = np.array([patch.bounds or (np.nan,) * 4 for patch in self._places], dtype=np.float64).reshape(-1, 4)
        columns: dict[str, Any] = {"crs": pa.array([patch.crs for patch in self._places], pa.string())}
        return corners_of(pa.table(columns | dict(zip(BOUNDS, edges.T, strict=True))))

    def _batch(self, patches: Sequence[tuple[int, Patch]]) -> Batch:
        self.rows += [row for row, _ in patches]
        self._places += [Patch(each.key, {}, {}, crs=each.crs, bounds=each.bounds) for _, each in patches]
        images, sizes = {}, {}
        for group in self._archive.groups:
            arrays = [each.images[group.name] for _, each in patches]
            shapes = np.array([array.shape[1:] for array in arrays])
            canvas = np.zeros((len(arrays), len(group.bands), *shapes.max(axis=0)), dtype=np.float32)
            for place, array in zip(canvas, arrays, strict=True):
                place[:, : array.shape[1], : array.shape[2]] = array
            images[group.name] = torch.from_numpy(canvas)
            if group.shape is None:
                sizes[group.name] = torch.from_numpy(shapes.astype(np.int64))
        rows = np.array([row for row, _ in patches], dtype=np.int64)
        return Batch(images, sizes, torch.from_numpy(rows.copy()), rows).to(self._device)


def _elements(patches: Sequence[Patch]) -> int:
    """Numbers in the canvas of a batch of these."""
    groups = patches[0].images
    return sum(max(each.images[name].size for each in patches) * len(patches) for name in groups)
