"""A shard set as a plain torch Dataset, for whoever brings a loop of their own. Pretraining does not use it."""

from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch
from torch.utils.data import Dataset

from rspretrain.shardset.index import ShardSet

Sample = dict[str, Any]


@final
class ShardDataset(Dataset[Sample]):
    """Samples of a split that a filter keeps: {"key": str, <group>: tensor [C H W], "labels_<nomenclature>": tensor}.

    Pixels have the archive's dtype and units. Labels are the number of the class (int64) where a sample has one, else
    [K] float32, 1 for every class that is there. Every sample's checksum is verified when it is read. `transform` is
    called with each sample. Works with DataLoader and its workers. ValueError as in ShardSet.select.
    """

    def __init__(
        self,
        shards: ShardSet,
        split: str | None = None,
        filter: str | None = None,
        transform: Callable[[Sample], Any] = lambda sample: sample,
    ) -> None:
        self.shards, self.transform = shards, transform
        self.rows = shards.select(split, filter)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """Sample number `index` of the selection, transformed."""
        patch = self.shards[int(self.rows[index])]
        images = {name: torch.from_numpy(np.array(image)) for name, image in patch.images.items()}
        return self.transform({"key": patch.key, **images, **self._labels(patch.labels)})

    def _labels(self, labels: dict[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
        tensors = {}
        for name, nomenclature in self.shards.nomenclatures.items():
            numbers = [nomenclature.names.index(label) for label in labels.get(name, ())]
            if nomenclature.multi:
                hot = torch.zeros(len(nomenclature.names))
                hot[numbers] = 1.0
                tensors[f"labels_{name}"] = hot
            else:
                tensors[f"labels_{name}"] = torch.tensor(numbers[0] if numbers else -100)  # cross entropy's "ignore"
        return tensors
