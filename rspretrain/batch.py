"""A batch: tensors on their way from the shards to an objective, with the identity of every sample."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The samples of one rank in one step. Pixels are as the archive has them: dtype, resolution, no normalisation.

    Shapes: B samples; a group's array is [B C H W]. Where images of an archive differ in size, H and W are the largest
    and `sizes` says which upper left part of the canvas is image; the rest must never be looked at.
    """

    images: dict[str, Tensor]  # group name -> [B C H W]
    sizes: dict[str, Tensor]  # group name -> [B 2] int64 (height, width), only for groups whose images differ in size
    seeds: Tensor  # [B] int64, the key of every random choice about a sample (keyed.sample_seeds)
    rows: NDArray[np.int64]  # [B] row of each sample in the index of the shard set: its labels, key and place

    def __len__(self) -> int:
        return len(self.seeds)

    def split(self, pieces: int) -> list["Batch"]:
        """So many batches of equal size, views of this one; `pieces` divides B."""
        each = len(self) // pieces
        spans = [slice(start, start + each) for start in range(0, len(self), each)]
        return [
            Batch(
                {name: value[span] for name, value in self.images.items()},
                {name: value[span] for name, value in self.sizes.items()},
                self.seeds[span],
                self.rows[span],
            )
            for span in spans
        ]

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device; copies do not block where the memory is pinned."""
        if self.seeds.device == device:
            return self
        move = {name: value.to(device, non_blocking=True) for name, value in self.images.items()}
        sizes = {name: value.to(device, non_blocking=True) for name, value in self.sizes.items()}
        return replace(self, images=move, sizes=sizes, seeds=self.seeds.to(device, non_blocking=True))
