"""A shard set as a map-style torch Dataset, for custom training loops. Pretraining does not use it."""

from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch
from torch.utils.data import Dataset

from rspretrain.shardset.index import ShardSet

Sample = dict[str, Any]


@final
class ShardDataset(Dataset[Sample]):
    """The samples selected by `split` and `filter`, as dictionaries with these entries:

    "key": str, <group>: tensor [C H W], "labels_<nomenclature>": tensor. Pixels have the archive's dtype and units.
    Labels are a class index (int64, -100 if the sample has none) in a single-label nomenclature, and multi-hot
    [K] float32 in a multi-label one. Checksums are verified at every read. `transform` is applied to each sample.
    Works with DataLoader and its workers. ValueError as in ShardSet.select.
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
        """The transformed sample at `index` in the selection."""
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
                tensors[f"labels_{name}"] = torch.tensor(numbers[0] if numbers else -100)  # ignored by cross entropy
        return tensors
