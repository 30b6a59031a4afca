"""Construction of networks without training; tests/engine/test_finetune.py tests whole runs."""

from pathlib import Path

import pytest
from fakes.memory import memory_shards

from rspretrain.finetuning.networks import (
    Networks,
    NetworkSettings,
    ValidationSettings,
    assemble,
    grid_inputs,
    load_networks,
    resize_,
)
from rspretrain.nn.backbones import BackboneSettings, create_backbone
from rspretrain.nn.classifiers.k_branch import KBranchSettings
from rspretrain.nn.classifiers.linear import LinearSettings
from rspretrain.shardset.index import ShardSet
from rspretrain.transforms.inputs import SensorSettings

ALL_S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("finetune") / "shards", samples=8)


def test_late_and_early_fusion_of_random_networks(shards: ShardSet) -> None:
    sensors = {"s1": SensorSettings(bands=("VV",)), "s2": SensorSettings(bands=("B02", "B05"))}
    kind = {"name": "test_resnet", "px": 12}
    late = load_networks({}, sensors, NetworkSettings(**kind), shards)
    assert [one.sensor for one in late.backbones] == ["s1", "s2"]
    assert late.initial == {"s1": "random", "s2": "random"}
    early = load_networks({}, sensors, NetworkSettings(fusion="early", **kind), shards)
    assert [(one.sensor, one.bands) for one in early.backbones] == [("s1+s2", ("VV", "B02", "B05"))]
    assert list(early.inputs) == ["s1", "s2"]
    widths = [assemble(LinearSettings(), networks, 5).head.in_features for networks in (late, early)]
    assert widths[0] == 2 * widths[1]


def test_k_branch_has_one_input_per_pixel_grid(shards: ShardSet) -> None:
    inputs = grid_inputs(KBranchSettings(), {"s2": SensorSettings(bands=ALL_S2, normalise="bigearthnet")}, shards)
    assert {name: one.groups for name, one in inputs.items()} == {
        "s2_10m": ("s2_10m",), "s2_20m": ("s2_20m",), "s2_60m": ("s2_60m",),
    }  # fmt: skip
    assert inputs["s2_60m"].normalise.name == "bigearthnet"
    with pytest.raises(ValueError, match=r"for the classifier 'k_branch', expected one sensor with the bands .*B12"):
        grid_inputs(KBranchSettings(), {"s2": SensorSettings(bands=ALL_S2[:-1])}, shards)
    with pytest.raises(ValueError, match=r"sensors: got \{\} for the classifier 'k_branch', expected one sensor"):
        grid_inputs(KBranchSettings(), {}, shards)


def test_a_folder_without_a_backbone_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not an exported backbone: it has no config.json"):
        load_networks({"s2": tmp_path}, {}, NetworkSettings(), shards)
    assert ValidationSettings().keep == "best"


def test_only_convolutional_backbones_can_be_resized() -> None:
    def networks(name: str) -> Networks:
        return Networks([create_backbone(BackboneSettings(name=name), "rgb", ("R", "G", "B"), 32)], {}, {})

    cnn = networks("test_resnet")
    resize_(cnn, 48)
    assert cnn.backbones[0].px == 48
    with pytest.raises(ValueError, match=r"views.px: got 48 for rgb \(test_vit, 32 px\), expected convolutional backb"):
        resize_(networks("test_vit"), 48)
    with pytest.raises(ValueError, match=r"views.px: got 48 for a classifier without backbones, expected convolution"):
        resize_(Networks([], {}, {}), 48)
