"""Exported classifiers: logits equal bit for bit, class names, and errors for edited folders."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nn.classifiers.pairs import S1, S2, STACK, resnet
from rspretrain.nn.backbones import Backbone, BackboneSettings, create_backbone
from rspretrain.nn.classifier_files import (
    KEY,
    LabelSpec,
    export_classifier,
    label_spec_of,
    load_classifier,
    read_classifier_contract,
)
from rspretrain.nn.classifiers import Classifier, ClassifierSettings, build_classifier
from rspretrain.nn.classifiers.ca_conv_bilstm import CaConvBilstmSettings
from rspretrain.nn.classifiers.k_branch import KBranchSettings
from rspretrain.nn.classifiers.linear import LinearSettings
from rspretrain.nn.classifiers.sct_fusion import SctSettings
from rspretrain.nn.weights import export_backbone, normalise_from_contract
from rspretrain.transforms.normalise import Normalise

torch.set_num_threads(1)
LABEL_SPEC = LabelSpec("all", ("field", "forest; old", "water"), multi=True)
PROVENANCE = {"run": "a", "step": 7, "results": {"f1_micro": 0.8125, "ap_macro": math.nan, "classes": [1.0]}}
VIT = BackboneSettings(name="vit_sct", args={"embed_dim": 16, "depth": 2, "num_heads": 1, "patch_size": 8})


@dataclass(frozen=True)
class Input:
    sensor: str
    normalise: Normalise


def vit(sensor: str, bands: tuple[str, ...], px: int) -> Backbone:
    return create_backbone(VIT, sensor, bands, px)


KINDS: dict[str, tuple[ClassifierSettings, Callable[[], list[Backbone]]]] = {
    "late": (LinearSettings(), lambda: [resnet("s1", S1), resnet("s2", S2, 48)]),
    "early": (LinearSettings(), lambda: [resnet("s1+s2", S1 + S2)]),
    "sct": (SctSettings(), lambda: [vit("s1", S1, 16), vit("s2", S2, 24)]),
    "k_branch": (KBranchSettings(areas=1, attention="none"), list),
    "ca_conv_bilstm": (CaConvBilstmSettings(areas=1, filters="released"), list),
}


def trained(kind: str) -> tuple[Classifier, ClassifierSettings]:
    """A classifier whose weights and buffers have changed."""
    settings, make = KINDS[kind]
    torch.manual_seed(0)
    classifier = build_classifier(settings, make(), 3, STACK)
    classifier.train()(images(classifier, 4))
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return classifier.eval(), settings


def images(classifier: Classifier, num: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(num, len(bands), classifier.px[name], classifier.px[name], generator=generator)
        for name, bands in classifier.bands.items()
    }


def inputs(classifier: Classifier, scaling: str = "fixed") -> dict[str, Input]:
    return {
        name: Input(name[:2], Normalise(scaling, bands, "db" if name == "s1" else "dn"))
        for name, bands in classifier.bands.items()
    }


def export(kind: str, folder: Path, scaling: str = "fixed") -> Classifier:
    classifier, settings = trained(kind)
    export_classifier(classifier, settings, inputs(classifier, scaling), LABEL_SPEC, folder, PROVENANCE, crop_px=20)
    return classifier


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_equal_bit_for_bit(tmp_path: Path, kind: str) -> None:
    classifier = export(kind, tmp_path / "classifier")
    again, contract = load_classifier(tmp_path / "classifier")
    assert type(again) is type(classifier)
    assert not again.training
    given = images(classifier)
    with torch.no_grad():
        assert torch.equal(again(given), classifier(given))
        name = next(iter(given))
        assert torch.equal(again({name: given[name]}), classifier({name: given[name]}))
    assert label_spec_of(contract) == LABEL_SPEC


def test_contract_has_inputs_classes_and_provenance(tmp_path: Path) -> None:
    classifier = export("k_branch", tmp_path / "classifier", "bigearthnet")
    contract = read_classifier_contract(tmp_path / "classifier")
    first = contract["inputs"][0]
    assert (first["name"], first["sensor"], first["px"], first["units"]) == ("s2_10m", "s2", 30, "dn")
    assert first["bands"] == ["B04", "B03", "B02", "B08"]
    assert first["normalise"]["bands"][0]["low"] is None  # no infinity in JSON
    x = 3000 * torch.rand(1, 4, 5, 5)
    own = Normalise("bigearthnet", classifier.bands["s2_10m"], "dn")
    assert torch.equal(normalise_from_contract(first).scale(x), own.scale(x))
    assert (contract["classes"], contract["threshold"]) == (["field", "forest; old", "water"], 0.5)
    assert (contract["nomenclature"], contract["multi"], contract["crop_px"]) == ("all", True, 20)
    assert contract["classifier"] == KBranchSettings(areas=1, attention="none").model_dump(mode="json")
    assert contract["provenance"]["results"] == {"f1_micro": 0.8125, "ap_macro": None, "classes": [1.0]}
    text = (tmp_path / "classifier/config.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_model_card_lists_classes_bands_and_figures(tmp_path: Path) -> None:
    export("late", tmp_path / "classifier")
    card = (tmp_path / "classifier/README.md").read_text()
    assert card.startswith("---\nlicense: unknown\ntags:\n- image-classification\n- remote-sensing\n- s1\n- s2\n")
    assert "Classifier `linear` for 3 classes of the nomenclature `all`, multi-label, fine-tuned" in card
    assert "Input: `s1` [B 2 32 32] and `s2` [B 3 48 48], scaled as below, the central 20 x 20 pixels of the " in card
    assert "\n0. field\n1. forest; old\n2. water\n" in card
    assert "| s2 | 1 | s2 | B03 | 0 | 10000 | 0 | 10000 |" in card
    assert "| f1_micro | 0.8125 |\n\n## Bands" in card
    assert "- `s2`: `test_resnet` at 48 px" in card
    assert "Pixels of `s1` are in `db` (scaling `fixed`)." in card


def test_full_weights_replace_sharded_ones(tmp_path: Path) -> None:
    classifier, settings = trained("late")
    whole = {name: torch.zeros_like(value) for name, value in classifier.state_dict().items()}
    export_classifier(classifier, settings, inputs(classifier), LABEL_SPEC, tmp_path / "c", {}, weights=whole)
    again, contract = load_classifier(tmp_path / "c")
    assert not any(value.any() for value in again.state_dict().values())
    assert contract["crop_px"] is None


def test_a_failed_export_keeps_the_old_one(tmp_path: Path) -> None:
    classifier = export("late", tmp_path / "classifier")
    with pytest.raises(TypeError):
        export_classifier(
            classifier, LinearSettings(), inputs(classifier), LABEL_SPEC, tmp_path / "classifier", {"x": object()}
        )
    assert [path.name for path in tmp_path.iterdir()] == ["classifier"]
    assert read_classifier_contract(tmp_path / "classifier")["provenance"]["step"] == 7


def test_inputs_and_classes_must_match_the_classifier(tmp_path: Path) -> None:
    classifier, settings = trained("late")
    with pytest.raises(
        ValueError,
        match=r"are for bands \{'s1': \['VV', 'VH'\]\}, expected the classifier's inputs, .*\. Export it w",
    ):
        export_classifier(classifier, settings, {"s1": inputs(classifier)["s1"]}, LABEL_SPEC, tmp_path / "c", {})
    twice = LabelSpec("all", ("field", "field", "water"), multi=True)
    with pytest.raises(
        ValueError,
        match=r"has 3 logits, got the class names \['field', 'field', 'water'\], expected one .*\. Export it",
    ):
        export_classifier(classifier, settings, inputs(classifier), twice, tmp_path / "c", {})
    assert not list(tmp_path.iterdir())


def test_edited_and_missing_files_are_errors(tmp_path: Path) -> None:
    folder = tmp_path / "classifier"
    export("late", folder)
    config = json.loads((folder / "config.json").read_text())
    edited = {KEY: {**config[KEY], "classes": ["water", "forest; old", "field"]}}
    (folder / "config.json").write_text(json.dumps(edited))
    with pytest.raises(ValueError, match=r"have different contracts: one of them was edited .*\. Export the class"):
        load_classifier(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON \(Expecting .*, expected a contract. Export the"):
        load_classifier(folder)
    (folder / "config.json").write_text(json.dumps({KEY: {**config[KEY], "contract_version": 9}}))
    with pytest.raises(ValueError, match=r"has contract version 9, expected at most 1. Load it with the version of"):
        load_classifier(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    header = {"rspretrain": json.dumps(config[KEY])}
    save_file({**weights, "head.bias": torch.zeros(4)}, folder / "model.safetensors", header)
    with pytest.raises(ValueError, match=r"(?s)does not match the network of its contract .*head.bias.*\. Export the"):
        load_classifier(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no model.safetensors, expected it beside config.json. Export the cla"):
        load_classifier(folder)


def test_other_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is not an exported classifier: it has no config.json. Expected the folder of an"
    ):
        load_classifier(tmp_path)
    export_backbone(resnet("s1", S1), {"s1": Normalise("fixed", S1, "db")}, tmp_path / "s1", {})
    with pytest.raises(
        ValueError, match=r"contains an exported backbone, expected a classifier: .*\. Fine-tune one with"
    ):
        load_classifier(tmp_path / "s1")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"contains no export of rspretrain, expected a classifier"):
        load_classifier(tmp_path)


@final
class Foreign(Classifier):
    """A classifier of another package: the sum of the first band of every input."""

    def __init__(self, settings: ClassifierSettings, backbones: object, num_classes: int, bands: object = None) -> None:
        super().__init__({"s2": S2}, {"s2": 8}, num_classes)
        self.head = torch.nn.Linear(1, num_classes)

    def classify(self, images: dict[str, Tensor]) -> Tensor:
        return self.head(images["s2"].mean(dim=(1, 2, 3))[:, None])


def test_code_of_another_package_runs_only_if_allowed(tmp_path: Path, monkeypatch) -> None:
    name = f"{__name__}:Foreign"
    model = build_classifier(ClassifierSettings(name=name), [], 3)
    folder = export_classifier(model, ClassifierSettings(name=name), inputs(model), LABEL_SPEC, tmp_path / "c", {})
    again, contract = load_classifier(folder, allow=[name])
    assert contract["classifier"] == {"name": name}
    x = {"s2": torch.rand(2, len(S2), 8, 8)}
    assert torch.equal(again(x), model.eval()(x))
    monkeypatch.setattr("importlib.import_module", lambda module: pytest.fail(f"{module} was imported"))
    for allow in ((), ["elsewhere:Foreign"]):
        with pytest.raises(ValueError, match=f"contains a classifier of the class '{name}', which is not part of rsp"):
            load_classifier(folder, allow)
