"""Classifiers that carry their contract: which pixels they want, and what their logits are called (design.md D10).

As `weights` does it for backbones: `model.safetensors`, `config.json` with the contract, which the weights' header
repeats, and the model card `README.md`. Nothing in the folder executes when it is read.
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
from rspretrain.nn.weights import WEIGHTS, describe, stamped, stored_contract, write_folder
from rspretrain.registry import is_import_path
from rspretrain.transforms.normalise import Normalise

CONTRACT_VERSION = 1
KEY = "rspretrain_classifier"  # of the contract in config.json


@dataclass(frozen=True)
class Answers:
    """What the logits of a classifier say, one for every class."""

    nomenclature: str  # of the shard set that taught it
    classes: tuple[str, ...]  # in the order of the logits
    multi: bool  # whether an image may have several classes
    threshold: float = 0.5  # a class is given where its probability is over it; of several classes an image only


class Scaled(Protocol):
    """An input of a classifier, whose name need not be its sensor's (K-Branch). `SensorInput` is one."""

    @property
    def sensor(self) -> str:
        """Whose bands they are."""

    @property
    def normalise(self) -> Normalise:
        """Bands in the order of the channels, their units and scaling."""


def export_classifier(
    classifier: Classifier,
    settings: ClassifierSettings,
    inputs: Mapping[str, Scaled],
    answers: Answers,
    folder: str | Path,
    provenance: dict[str, Any],
    *,
    crop_px: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the folder, whole or not at all, replacing an older one. `provenance` is JSON; NaN in it becomes null.

    `settings` are those that it was built from. `crop_px`: side of the middle window that it is shown, in pixels of the
    finest grid; None: the whole image. `weights`: its state dict, whole, where its own parameters are shards. Call on
    one rank. ValueError where inputs or classes are not the classifier's.
    """
    contract = make_contract(classifier, settings, inputs, answers, provenance, crop_px)
    config = encode_json({KEY: contract}, indent=2) + "\n"
    texts = {"config.json": config, "README.md": classifier_card(Path(folder).name, contract)}
    return write_folder(folder, weights or classifier.state_dict(), contract, texts)


def make_contract(
    classifier: Classifier,
    settings: ClassifierSettings,
    inputs: Mapping[str, Scaled],
    answers: Answers,
    provenance: dict[str, Any],
    crop_px: int | None = None,
) -> dict[str, Any]:
    """What pixels the weights expect, what they answer, and where they come from; JSON without infinities."""
    _check(classifier, inputs, answers)
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
            {"name": name, "px": classifier.px[name]} | describe(inputs[name].sensor, inputs[name].normalise)
            for name in classifier.bands
        ],
        "nomenclature": answers.nomenclature,
        "classes": list(answers.classes),
        "multi": answers.multi,
        "threshold": answers.threshold,
        "crop_px": crop_px,
        "provenance": stamped(provenance),
    }
    return replace_nonfinite(contract)


def _check(classifier: Classifier, inputs: Mapping[str, Scaled], answers: Answers) -> None:
    given = {name: one.normalise.bands for name, one in inputs.items()}
    if given != classifier.bands:
        raise ValueError(
            f"The normalisations are for bands {_lists(given)}, the classifier's inputs are "
            f"{_lists(classifier.bands)}. Export it with the normalisations it was trained with."
        )
    if len(set(answers.classes)) != classifier.num_classes or len(answers.classes) != classifier.num_classes:
        raise ValueError(
            f"The classifier has {classifier.num_classes} logits, the class names are {list(answers.classes)}; "
            "expected a different one for every logit. Export it with the classes it was trained on, in their order."
        )


def read_classifier_contract(folder: str | Path) -> dict[str, Any]:
    """The contract of an exported classifier, from its config.json. ValueError where there is none that is known."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is no exported classifier: it has no config.json. Expected a folder of export_classifier, such "
            "as export/classifier of a run of `rspretrain finetune`."
        )
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}), expected a contract. Export the classifier again.") from None
    if not isinstance(config, dict) or KEY not in config:
        what = "an exported backbone" if isinstance(config, dict) and "rspretrain" in config else "no export of ours"
        raise ValueError(
            f"{folder} holds {what}, expected a classifier: config.json has no key {KEY!r}. Fine-tune one with "
            "`rspretrain finetune`, or name its folder export/classifier."
        )
    contract: dict[str, Any] = config[KEY]
    if contract["contract_version"] > CONTRACT_VERSION:
        raise ValueError(
            f"{path} has contract version {contract['contract_version']}, expected {CONTRACT_VERSION} at most. Load it "
            "with the version of rspretrain that wrote it, or a later one."
        )
    return contract


def load_classifier(folder: str | Path, allow: Collection[str] = ()) -> tuple[Classifier, dict[str, Any]]:
    """The classifier, in eval mode, and its contract. ValueError where the folder is not what was exported.

    A contract may name a class of another package by its import path, and importing runs that package's code. Such a
    path is refused unless `allow` has it.
    """
    contract = read_classifier_contract(folder)
    _check_import(folder, contract["classifier"], allow)
    weights = Path(folder) / WEIGHTS
    if not weights.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}, expected it beside config.json. Export the classifier again.")
    if stored_contract(folder) != contract:
        raise ValueError(
            f"config.json and {WEIGHTS} in {folder} carry different contracts: one of them was edited or replaced. "
            "Export the classifier again."
        )
    classifier = _build(contract)
    try:
        classifier.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise ValueError(
            f"{weights} does not hold the weights of the network that its contract describes ({error}). Export the "
            "classifier again, or load it with the version of timm that built it."
        ) from None
    return classifier.eval(), contract


def _check_import(folder: str | Path, section: dict[str, Any], allow: Collection[str]) -> None:
    name = str(section.get("name"))
    if is_import_path(name) and name not in allow:
        raise ValueError(
            f"{folder} holds a classifier of the class {name!r}, which is not part of rspretrain, and loading it runs "
            f"that package's code. If you trust the package, allow it: predict --allow {name}, or "
            f"load_classifier(folder, allow=[{name!r}])."
        )


def _build(contract: dict[str, Any]) -> Classifier:
    """The network that a contract describes, at random."""
    settings = CLASSIFIERS.find(contract["classifier"]["name"]).Settings.model_validate(contract["classifier"])
    backbones = [
        Backbone(one["sensor"], tuple(one["bands"]), one["px"], one["architecture"], one["model_args"])
        for one in contract["backbones"]
    ]
    bands = {one["name"]: tuple(one["bands"]) for one in contract["inputs"]}
    return build_classifier(settings, backbones, len(contract["classes"]), bands)


def answers_of(contract: dict[str, Any]) -> Answers:
    """What the logits say, by the contract."""
    return Answers(
        contract["nomenclature"], tuple(contract["classes"]), contract["multi"], threshold=contract["threshold"]
    )


def _lists(bands: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: list(some) for name, some in bands.items()}
