"""A batch of samples: tensors from the shards, with the seed and the index row of every sample."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The samples of one rank in one step. Pixels have the archive's dtype and resolution and are not normalised.

    Shapes: B samples; a group's array is [B C H W]. If images of an archive differ in size, H and W are the maxima, and
    `sizes` gives the valid upper left part of each image; other pixels are undefined.
    """

    images: dict[str, Tensor]  # group name -> [B C H W]
    sizes: dict[str, Tensor]  # group name -> [B 2] int64 (height, width); only groups whose images differ in size
    seeds: Tensor  # [B] int64, seed of all random numbers of a sample (rng.sample_seeds)
    rows: NDArray[np.int64]  # [B] row of each sample in the index of the shard set

    def __len__(self) -> int:
        return len(self.seeds)

    def split(self, pieces: int) -> list["Batch"]:
        """Split into `pieces` batches of equal size, which are views. `pieces` must divide B."""
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
        """The batch on another device. Copies from pinned memory are asynchronous."""
        if self.seeds.device == device:
            return self
        move = {name: value.to(device, non_blocking=True) for name, value in self.images.items()}
        sizes = {name: value.to(device, non_blocking=True) for name, value in self.sizes.items()}
        return replace(self, images=move, sizes=sizes, seeds=self.seeds.to(device, non_blocking=True))
