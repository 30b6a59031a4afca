"""Exported backbones: timm alone gives the same features bit for bit; other bands are an error."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone, timm
from rspretrain.nn.norm import synchronise_norms
from rspretrain.nn.weights import (
    contract_inputs,
    export_backbone,
    load_backbone,
    normalise_from_contract,
    read_contract,
)
from rspretrain.transforms.normalise import Normalise

torch.set_num_threads(1)
BANDS = ("B04", "B02", "B11", "B8A")
PROVENANCE = {
    "objective": "dual_simclr",
    "step": 7,
    "config_sha256": "ab",
    "manifest_sha256": "cd",
    "datasets": ["ben"],
}


def trained(name: str, px: int = 60) -> Backbone:
    """A backbone with changed buffers, as after training."""
    torch.manual_seed(0)
    backbone = create_backbone(BackboneSettings(name=name), "s2", BANDS, px)
    synchronise_norms(backbone)
    backbone.train()(torch.randn(4, len(BANDS), px, px))
    return backbone.eval()


def export(backbone: Backbone, folder: Path, scaling: str = "fixed") -> Path:
    return export_backbone(backbone, {"s2": Normalise(scaling, BANDS, "dn")}, folder, PROVENANCE)


@pytest.mark.parametrize(("name", "px"), [("resnet18", 60), ("vit_sct", 60), ("vit_small_patch16_224", 64)])
def test_timm_alone_gives_the_same_features(tmp_path: Path, name: str, px: int) -> None:
    backbone = trained(name, px)
    folder = export(backbone, tmp_path / "s2")
    x = torch.randn(3, len(BANDS), px, px)
    with torch.no_grad():
        expected = backbone(x)
        one_line = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        assert torch.equal(one_line(x), expected)
        config = json.loads((folder / "config.json").read_text())
        by_hand = timm.create_model(config["architecture"], **config["model_args"]).eval()
        by_hand.load_state_dict(load_file(folder / "model.safetensors"))
        assert torch.equal(by_hand(x), expected)
        ours, _ = load_backbone(folder, BANDS)
        assert torch.equal(ours.eval()(x), expected)


def test_contract_has_bands_scaling_and_provenance(tmp_path: Path) -> None:
    contract = read_contract(export(trained("resnet18"), tmp_path / "s2", "bigearthnet"))
    assert (contract["sensor"], contract["bands"], contract["px"]) == ("s2", list(BANDS), 60)
    (described,) = contract_inputs(contract)
    assert (described["sensor"], described["bands"], described["units"]) == ("s2", list(BANDS), "dn")
    first = described["normalise"]["bands"][0]
    assert first == {"name": "B04", "low": None, "high": None, "mean": 590.23569706, "std": 675.88746967}
    assert PROVENANCE.items() <= contract["provenance"].items()
    x = torch.rand(2, 4, 5, 5) * 3000
    assert torch.equal(normalise_from_contract(described).scale(x), Normalise("bigearthnet", BANDS, "dn").scale(x))


def test_model_card_has_front_matter_and_every_band(tmp_path: Path) -> None:
    card = (export(trained("resnet18"), tmp_path / "s2", "hsg") / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    assert 'datasets: ["ben"]' in card
    assert "| 2 | s2 | B11 | 0 | 10000 | 0 | 1 |" in card
    assert "divided by its maximum in the image + 1e-05" in card


def test_the_contract_of_a_backbone_with_two_sensors_lists_the_bands_by_sensor(tmp_path: Path) -> None:
    backbone = create_backbone(BackboneSettings(name="test_resnet"), "s1+s2", ("VH", "B04", "B02"), 16)
    inputs = {"s1": Normalise("fixed", ("VH",), "db"), "s2": Normalise("bigearthnet", ("B04", "B02"), "dn")}
    folder = export_backbone(backbone, inputs, tmp_path / "s1+s2", PROVENANCE)
    contract = read_contract(folder)
    assert (contract["sensor"], contract["bands"]) == ("s1+s2", ["VH", "B04", "B02"])
    for described, (sensor, normalise) in zip(contract_inputs(contract), inputs.items(), strict=True):
        assert (described["sensor"], tuple(described["bands"])) == (sensor, normalise.bands)
        assert torch.equal(normalise_from_contract(described).mean, normalise.mean)
    card = (folder / "README.md").read_text()
    assert "\n- s1\n- s2\n" in card
    assert "| 1 | s2 | B04 | none | none |" in card
    assert "Pixels of `s1` are in `db` (scaling `fixed`).\nPixels of `s2` are in `dn` (scaling `bigearthnet`)." in card


def test_contracts_of_version_1_load() -> None:
    scaling = {"name": "fixed", "bands": [{"name": "VV", "low": -25.0, "high": 0.0, "mean": -25.0, "std": 25.0}]}
    old = {"contract_version": 1, "sensor": "s1", "bands": ["VV"], "units": "db", "px": 8, "normalise": scaling}
    (described,) = contract_inputs(old)
    assert described["sensor"] == "s1"
    x = torch.full((1, 1, 2, 2), -5.0)
    assert torch.equal(normalise_from_contract(described).scale(x), Normalise("fixed", ("VV",), "db").scale(x))


def test_other_bands_or_another_order_are_errors_with_both_lists(tmp_path: Path) -> None:
    folder = export(trained("resnet18"), tmp_path / "s2")
    with pytest.raises(
        ValueError,
        match=r"trained on bands \['B04', 'B02', 'B11', 'B8A'\], got \['B02', 'B04', 'B11', 'B8A'\]. The order",
    ):
        load_backbone(folder, ("B02", "B04", "B11", "B8A"))


def test_export_replaces_folders_and_leaves_no_other_files(tmp_path: Path) -> None:
    first, second = trained("resnet18"), create_backbone(BackboneSettings(), "s2", BANDS, 60).eval()
    export(first, tmp_path / "s2")
    export(second, tmp_path / "s2")
    assert [path.name for path in tmp_path.iterdir()] == ["s2"]
    x = torch.randn(1, 4, 60, 60)
    assert torch.equal(load_backbone(tmp_path / "s2")[0].eval()(x), second(x))


def test_a_failed_export_keeps_the_old_one(tmp_path: Path) -> None:
    backbone = trained("resnet18")
    export(backbone, tmp_path / "s2")
    with pytest.raises(TypeError):
        export_backbone(backbone, {"s2": Normalise("fixed", BANDS, "dn")}, tmp_path / "s2", {"step": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["s2"]
    assert read_contract(tmp_path / "s2")["provenance"]["step"] == 7


def test_errors_have_value_and_remedy(tmp_path: Path) -> None:
    backbone = trained("resnet18")
    with pytest.raises(
        ValueError,
        match=r"normalisation is for bands \['B04'\], expected the bands of the backbone, \['B04', 'B02', 'B11'",
    ):
        export_backbone(backbone, {"s2": Normalise("fixed", ("B04",), "dn")}, tmp_path / "s2", {})
    with pytest.raises(ValueError, match="is not an exported backbone: it has no config.json. Expected the folder of"):
        load_backbone(tmp_path)
    folder = export(backbone, tmp_path / "s2")
    config = json.loads((folder / "config.json").read_text())
    config["rspretrain"]["px"] = 120
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="have different contracts: one of them was edited or replaced. Export the back"
    ):
        load_backbone(folder)
    del config["rspretrain"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="has no key 'rspretrain', expected the bands of the backbone there. Load it with timm"
    ):
        load_backbone(folder)
