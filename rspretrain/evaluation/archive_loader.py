"""Batches read directly from an archive, without shards: for images that are read once, to predict."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from rspretrain.archives.base import Archive, Entry
from rspretrain.batch import Batch
from rspretrain.patch import Fault, Patch, PatchError, PatchExcluded
from rspretrain.shardset.rows import BOUNDS, corners_of

_MAX_ELEMENTS = 1 << 27  # float32 values per batch, 512 MB: large scenes are read in smaller batches


@final
class ArchiveLoader:
    """Reads entries once, in order. Unreadable entries are skipped and recorded in `faults`.

    After the last batch, `rows` holds the indices of the entries that were read, in batch order, and `corners` gives
    their footprints.
    """

    def __init__(
        self, archive: Archive, entries: Sequence[Entry], rows: NDArray[np.int64], batch_size: int, device: torch.device
    ) -> None:
        """`rows`: indices into `entries` of those to read."""
        self._archive, self._entries, self._wanted = archive, entries, rows
        self._batch_size, self._device = batch_size, device
        self.rows: list[int] = []
        self.faults: list[Fault] = []
        self.excluded: list[Fault] = []  # by the archive's options
        self._footprints: list[Patch] = []  # without pixels

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
            if len(patches) == self._batch_size or _elements([each for _, each in patches]) > _MAX_ELEMENTS:
                yield self._batch(patches)
                patches = []
        if patches:
            yield self._batch(patches)

    def corners(self) -> NDArray[np.float64]:
        """[N 5 2]: footprints of the images of `rows`, in the layout of `rows.corners_of`."""
        patches = self._footprints
        edges = np.array([patch.bounds or (np.nan,) * 4 for patch in patches], dtype=np.float64).reshape(-1, 4)
        columns: dict[str, Any] = {"crs": pa.array([patch.crs for patch in patches], pa.string())}
        return corners_of(pa.table(columns | dict(zip(BOUNDS, edges.T, strict=True))))

    def _batch(self, patches: Sequence[tuple[int, Patch]]) -> Batch:
        self.rows += [row for row, _ in patches]
        self._footprints += [Patch(each.key, {}, {}, crs=each.crs, bounds=each.bounds) for _, each in patches]
        images, sizes = {}, {}
        for group in self._archive.groups:
            arrays = [each.images[group.name] for _, each in patches]
            shapes = np.array([array.shape[1:] for array in arrays])
            canvas = np.zeros((len(arrays), len(group.bands), *shapes.max(axis=0)), dtype=np.float32)
            for image, array in zip(canvas, arrays, strict=True):
                image[:, : array.shape[1], : array.shape[2]] = array
            images[group.name] = torch.from_numpy(canvas)
            if group.shape is None:
                sizes[group.name] = torch.from_numpy(shapes.astype(np.int64))
        rows = np.array([row for row, _ in patches], dtype=np.int64)
        return Batch(images, sizes, torch.from_numpy(rows.copy()), rows).to(self._device)


def _elements(patches: Sequence[Patch]) -> int:
    """Number of values in a batch of these patches, padding included."""
    groups = patches[0].images
    return sum(max(each.images[name].size for each in patches) * len(patches) for name in groups)
