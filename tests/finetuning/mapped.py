"""Patches with a map of DFC2020's codes, whose labels depend on the window, and one training step on them."""

from pathlib import Path

import numpy as np
import torch
from fakes.memory import MemoryArchive

from rspretrain import world
from rspretrain.archives.base import Entry, Nomenclature
from rspretrain.archives.dfc2020 import CODES, dfc_labels
from rspretrain.evaluation.labels import LabelSettings, choose_labels
from rspretrain.finetuning.supervised import Supervised
from rspretrain.finetuning.targets import choose_targets
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.classifiers.linear import LinearClassifier, LinearSettings
from rspretrain.patch import Patch
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.streaming.loader import evaluation_batches
from rspretrain.transforms.inputs import SensorInput, SensorSettings
from rspretrain.transforms.train_views import TrainViews, TrainViewSettings

MAP = Group("dfc_10m", "map", ("dfc",), "uint8", (12, 12), 10.0, "class")
GROUPS = (Group("s1_10m", "s1", ("VV", "VH"), "float32", (12, 12), 10.0, "db"), MAP)
NET = {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 2}


class Mapped(MemoryArchive):
    """Maps with three random codes each, one of which may be invalid. A patch's label is that of its whole map."""

    def __post_init__(self) -> None:
        self.nomenclatures = {"dfc": Nomenclature(tuple(CODES), False), "dfc_multi": Nomenclature(tuple(CODES), True)}

    def pixels(self, number: int, group: Group) -> np.ndarray:
        if group is not MAP:
            return super().pixels(number, group)
        rng = np.random.default_rng(number)
        return rng.choice(rng.permutation(11)[:3], (1, 12, 12), p=(0.5, 0.4, 0.1)).astype(np.uint8)

    def read(self, entry: Entry) -> Patch:
        patch = super().read(entry)
        patch.labels.clear()
        patch.labels.update(dfc_labels(patch.images["dfc_10m"][0]))
        return patch


def mapped_shards(folder: Path, samples: int = 40) -> ShardSet:
    """Build a shard set of `Mapped` patches."""
    build_shards(Mapped(samples=samples, groups=GROUPS), folder, samples_per_shard=8)
    return open_shards(folder)


def objective(shards: ShardSet, nomenclature: str, **views: object) -> Supervised:
    """A small supervised objective with targets from the maps."""
    torch.manual_seed(0)
    sensor = SensorInput("s1", SensorSettings(bands=("VV", "VH")), list(shards.groups.values()))
    backbone = create_backbone(BackboneSettings(name="vit_tiny_patch16_224", args=NET), "s1", sensor.bands, 12)
    classifier = LinearClassifier(LinearSettings(), [backbone], 8)
    train_views = TrainViews(TrainViewSettings(**views), {"s1": sensor}, classifier.px)
    data = choose_labels(shards, LabelSettings(nomenclature=nomenclature, from_map="dfc", val_share=0))
    return Supervised(classifier, train_views, choose_targets(shards, data, train_views, "dfc")[0])


def step_on_this_rank(folder: Path, rows: np.ndarray) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of this rank's part of `rows`, averaged over ranks."""
    shards = open_shards(folder)
    one = objective(shards, "dfc", crop_px=8)
    mine = np.array_split(rows, world.size())[world.rank()]
    loss = one(next(iter(evaluation_batches(shards, one.groups, mine, len(mine))))).loss
    loss.backward()
    gradients = {name: world.mean_over_ranks(weight.grad) for name, weight in one.named_parameters()}
    return world.mean_over_ranks(loss), gradients
