"""Export and load classifiers, with the bands, units and normalisation of their inputs and the names of their classes.

The folder has the form of an exported backbone (weights.py): `model.safetensors`, `config.json` with the contract,
which the header of the weights repeats, and the model card `README.md`. Reading the folder executes nothing.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file
from torch import Tensor

from rspretrain.files import encode_json, replace_nonfinite
from rspretrain.nn.backbones import Backbone
from rspretrain.nn.classifiers import CLASSIFIERS, Classifier, ClassifierSettings, build_classifier
from rspretrain.nn.model_card import classifier_card
from rspretrain.nn.weights import WEIGHTS, describe_input, stored_contract, with_version, write_folder
from rspretrain.registry import is_import_path
from rspretrain.transforms.normalise import Normalise

CONTRACT_VERSION = 1
KEY = "rspretrain_classifier"  # of the contract in config.json


@dataclass(frozen=True)
class LabelSpec:
    """Class names of a classifier's logits, and how logits become labels."""

    nomenclature: str  # of the shard set used in training
    classes: tuple[str, ...]  # in the order of the logits
    multi: bool  # multi-label: an image may have several classes
    threshold: float = 0.5  # multi-label only: predict every class with a probability above it


class NormalisedInput(Protocol):
    """A classifier's input, such as a `SensorInput`. Its name may differ from its sensor (K-Branch)."""

    @property
    def sensor(self) -> str:
        """Sensor of the bands."""

    @property
    def normalise(self) -> Normalise:
        """Bands in channel order, their units and scaling."""


def export_classifier(
    classifier: Classifier,
    settings: ClassifierSettings,
    inputs: Mapping[str, NormalisedInput],
    label_spec: LabelSpec,
    folder: str | Path,
    provenance: dict[str, Any],
    *,
    crop_px: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the folder atomically, replacing an older one. Call it on one rank.

    `settings`: those that built the classifier. `provenance`: JSON; NaN becomes null. `crop_px`: side of the centre
    crop of its input, in pixels of the finest grid; None: the whole image. `weights`: the full state dict, if the
    classifier's parameters are sharded. ValueError if inputs or classes do not match the classifier.
    """
    contract = make_contract(classifier, settings, inputs, label_spec, provenance, crop_px)
    config = encode_json({KEY: contract}, indent=2) + "\n"
    texts = {"config.json": config, "README.md": classifier_card(Path(folder).name, contract)}
    return write_folder(folder, weights or classifier.state_dict(), contract, texts)


def make_contract(
    classifier: Classifier,
    settings: ClassifierSettings,
    inputs: Mapping[str, NormalisedInput],
    label_spec: LabelSpec,
    provenance: dict[str, Any],
    crop_px: int | None = None,
) -> dict[str, Any]:
    """The contract: expected input, classes and provenance of the weights, as JSON without infinities."""
    _check(classifier, inputs, label_spec)
    backbones: list[Backbone] = list(classifier.backbones.values())  # type: ignore[arg-type]
    contract = {
        "contract_version": CONTRACT_VERSION,
        "classifier": settings.model_dump(mode="json"),
        "backbones": [
            {"sensor": one.sensor, "bands": list(one.bands), "px": one.px}
            | {"architecture": one.architecture, "model_args": one.model_args}
            for one in backbones
        ],
        "inputs": [
            {"name": name, "px": classifier.px[name]} | describe_input(inputs[name].sensor, inputs[name].normalise)
            for name in classifier.bands
        ],
        "nomenclature": label_spec.nomenclature,
        "classes": list(label_spec.classes),
        "multi": label_spec.multi,
        "threshold": label_spec.threshold,
        "crop_px": crop_px,
        "provenance": with_version(provenance),
    }
    return replace_nonfinite(contract)


def _check(classifier: Classifier, inputs: Mapping[str, NormalisedInput], label_spec: LabelSpec) -> None:
    given = {name: one.normalise.bands for name, one in inputs.items()}
    if given != classifier.bands:
        raise ValueError(
            f"The normalisations are for bands {_lists(given)}, expected the classifier's inputs, "
            f"{_lists(classifier.bands)}. Export it with the normalisations used in training."
        )
    if len(set(label_spec.classes)) != classifier.num_classes or len(label_spec.classes) != classifier.num_classes:
        raise ValueError(
            f"The classifier has {classifier.num_classes} logits, got the class names {list(label_spec.classes)}, "
            "expected one distinct name per logit. Export it with the classes of its training, in their order."
        )


def read_classifier_contract(folder: str | Path) -> dict[str, Any]:
    """The contract of an exported classifier, from its config.json. ValueError if it is missing or unknown."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is not an exported classifier: it has no config.json. Expected the folder of an exported "
            "classifier, such as run.dir/export/classifier of `rspretrain finetune`."
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}), expected a contract. Export the classifier again.") from None
    if not isinstance(config, dict) or KEY not in config:
        what = (
            "an exported backbone" if isinstance(config, dict) and "rspretrain" in config else "no export of rspretrain"
        )
        raise ValueError(
            f"{folder} contains {what}, expected a classifier: config.json has no key {KEY!r}. Fine-tune one with "
            "`rspretrain finetune`, or give its folder, run.dir/export/classifier."
        )
    contract: dict[str, Any] = config[KEY]
    if contract["contract_version"] > CONTRACT_VERSION:
        raise ValueError(
            f"{path} has contract version {contract['contract_version']}, expected at most {CONTRACT_VERSION}. Load it "
            "with the version of rspretrain that wrote it, or a later one."
        )
    return contract


def load_classifier(folder: str | Path, allow: Collection[str] = ()) -> tuple[Classifier, dict[str, Any]]:
    """The classifier, in eval mode, and its contract. ValueError if the folder was changed after the export.

    A contract may name a class of another package by its import path, and importing it runs that package's code. Such
    a path is refused unless `allow` contains it.
    """
    contract = read_classifier_contract(folder)
    _check_import(folder, contract["classifier"], allow)
    weights = Path(folder) / WEIGHTS
    if not weights.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}, expected it beside config.json. Export the classifier again.")
    if stored_contract(folder) != contract:
        raise ValueError(
            f"config.json and {WEIGHTS} in {folder} have different contracts: one of them was edited or replaced. "
            "Export the classifier again."
        )
    classifier = _build(contract)
    try:
        classifier.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise ValueError(
            f"{weights} does not match the network of its contract ({error}). Export the classifier again, or load it "
            "with the version of timm that built it."
        ) from None
    return classifier.eval(), contract


def _check_import(folder: str | Path, section: dict[str, Any], allow: Collection[str]) -> None:
    name = str(section.get("name"))
    if is_import_path(name) and name not in allow:
        raise ValueError(
            f"{folder} contains a classifier of the class {name!r}, which is not part of rspretrain, and loading it "
            f"runs that package's code. If you trust the package, allow it: predict --allow {name}, or "
            f"load_classifier(folder, allow=[{name!r}])."
        )


def _build(contract: dict[str, Any]) -> Classifier:
    """The network of a contract, randomly initialised."""
    settings = CLASSIFIERS.find(contract["classifier"]["name"]).Settings.model_validate(contract["classifier"])
    backbones = [
        Backbone(one["sensor"], tuple(one["bands"]), one["px"], one["architecture"], one["model_args"])
        for one in contract["backbones"]
    ]
    bands = {one["name"]: tuple(one["bands"]) for one in contract["inputs"]}
    return build_classifier(settings, backbones, len(contract["classes"]), bands)


def label_spec_of(contract: dict[str, Any]) -> LabelSpec:
    """The class names in a contract."""
    return LabelSpec(
        contract["nomenclature"], tuple(contract["classes"]), contract["multi"], threshold=contract["threshold"]
    )


def _lists(bands: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: list(some) for name, some in bands.items()}
