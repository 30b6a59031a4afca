"""Export and load backbones: a folder that timm loads alone and that records its bands, units and normalisation.

`model.safetensors` has plain timm keys. `config.json` has timm's format with the contract under "rspretrain", which the
header of the weights repeats. `README.md` is the model card. Reading the folder executes nothing. In the contract,
"inputs" lists the sensors whose stacked bands are the channels. Version 1 of the contract had a single sensor, with
units and scaling at the top level.
"""

import json
import math
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rspretrain.files import atomic_folder, encode_json, replace_nonfinite
from rspretrain.nn.backbones import Backbone
from rspretrain.nn.model_card import model_card
from rspretrain.sensors import Scaling
from rspretrain.transforms.normalise import HSG_EPSILON, Normalise

CONTRACT_VERSION = 2
WEIGHTS = "model.safetensors"


def export_backbone(
    backbone: Backbone,
    inputs: Mapping[str, Normalise],
    folder: str | Path,
    provenance: dict[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the folder atomically, replacing an older one. Call it on one rank.

    `inputs`: sensor -> normalisation, in channel order. `provenance`: JSON such as objective, step and hashes; the
    package's version and git commit are added. `weights`: the full state dict, if the model's parameters are sharded.
    """
    bands = [band for normalise in inputs.values() for band in normalise.bands]
    if bands != list(backbone.bands):
        raise ValueError(
            f"The normalisation is for bands {bands}, expected the bands of the backbone, {list(backbone.bands)}. "
            "Export a backbone with the normalisation used in training."
        )
    contract = make_contract(backbone, inputs, provenance)
    config = encode_json(make_config(backbone, contract), indent=2) + "\n"
    texts = {"config.json": config, "README.md": model_card(Path(folder).name, backbone, contract)}
    return write_folder(folder, weights or backbone.model.state_dict(), contract, texts)


def write_folder(
    folder: str | Path, weights: Mapping[str, Tensor], contract: dict[str, Any], texts: Mapping[str, str]
) -> Path:
    """Write model.safetensors with the contract in its header, and `texts` by file name; atomically."""
    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with atomic_folder(folder) as temporary:
        # One key only: safetensors writes several in random order, and equal weights should give equal bytes.
        save_file(tensors, temporary / WEIGHTS, {"rspretrain": encode_json(contract)})
        for name, text in texts.items():
            (temporary / name).write_text(text)
    return folder


def make_contract(backbone: Backbone, inputs: Mapping[str, Normalise], provenance: dict[str, Any]) -> dict[str, Any]:
    """The contract: expected input and provenance of the weights, as JSON without infinities."""
    contract = {
        "contract_version": CONTRACT_VERSION,
        "sensor": backbone.sensor,
        "bands": list(backbone.bands),
        "px": backbone.px,
        "inputs": [describe_input(sensor, normalise) for sensor, normalise in inputs.items()],
        "provenance": with_version(provenance),
    }
    return replace_nonfinite(contract)


def with_version(provenance: dict[str, Any]) -> dict[str, Any]:
    """Add the package's version and git commit."""
    return {"rspretrain": _package_version(), "git_commit": _git_commit(), **provenance}


def describe_input(sensor: str, normalise: Normalise) -> dict[str, Any]:
    """Contract entry of one sensor, as `normalise_from_contract` reads it."""
    bands = [
        {"name": band, "low": _finite(s.low), "high": _finite(s.high), "mean": s.mean, "std": s.std}
        for band, s in zip(normalise.bands, normalise.scalings, strict=True)
    ]
    scaling: dict[str, Any] = {"name": normalise.name, "bands": bands}
    if normalise.per_image_max:
        scaling["divide_by_image_maximum_plus"] = HSG_EPSILON
    return {"sensor": sensor, "bands": list(normalise.bands), "units": normalise.units, "normalise": scaling}


def make_config(backbone: Backbone, contract: dict[str, Any]) -> dict[str, Any]:
    """config.json in the format of timm's hub export, for `create_model("local-dir:…", pretrained=True)`."""
    model: Any = backbone.model
    return {
        "architecture": backbone.architecture,
        "num_classes": 0,
        "num_features": backbone.num_features,
        "model_args": backbone.model_args,
        "pretrained_cfg": {
            "architecture": backbone.architecture,
            "tag": "rspretrain",
            "custom_load": False,
            "input_size": [len(backbone.bands), backbone.px, backbone.px],
            "fixed_input_size": not backbone.is_convolutional,
            "num_classes": 0,
            "pool_size": None,
            "first_conv": model.pretrained_cfg.get("first_conv"),
            "classifier": model.pretrained_cfg.get("classifier"),
        },
        "rspretrain": contract,
    }


def read_contract(folder: str | Path) -> dict[str, Any]:
    """The contract of an exported folder, from its config.json."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is not an exported backbone: it has no config.json. Expected the folder of an exported "
            "backbone, such as run.dir/export/rgb."
        )
    config = json.loads(path.read_text())
    if "rspretrain" not in config:
        raise ValueError(
            f"{path} has no key 'rspretrain', expected the bands of the backbone there. Load it with timm, or export "
            "it with rspretrain."
        )
    contract: dict[str, Any] = config["rspretrain"]
    return contract


def load_backbone(folder: str | Path, bands: tuple[str, ...] | None = None) -> tuple[Backbone, dict[str, Any]]:
    """The backbone and its contract. ValueError unless `bands` equal the bands of training, in the same order."""
    contract = read_contract(folder)
    trained = tuple(contract["bands"])
    if bands is not None and tuple(bands) != trained:
        raise ValueError(
            f"The backbone in {folder} was trained on bands {list(trained)}, got {list(bands)}. The order of the "
            "channels matters too: configure the first list, in its order, or pretrain on the second."
        )
    if stored_contract(folder) != contract:
        raise ValueError(
            f"config.json and model.safetensors in {folder} have different contracts: one of them was edited or "
            "replaced. Export the backbone again."
        )
    config = json.loads((Path(folder) / "config.json").read_text())
    backbone = Backbone(contract["sensor"], trained, contract["px"], config["architecture"], config["model_args"])
    backbone.model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return backbone, contract


def stored_contract(folder: str | Path) -> Any:
    """The contract in the header of model.safetensors, or None."""
    with safe_open(Path(folder) / WEIGHTS, "pt") as file:
        return json.loads((file.metadata() or {}).get("rspretrain", "null"))


def contract_inputs(contract: dict[str, Any]) -> list[dict[str, Any]]:
    """The contract's entry of every sensor ("sensor", "bands", "units", "normalise"), in channel order."""
    if contract["contract_version"] == 1:
        return [{key: contract[key] for key in ("sensor", "bands", "units", "normalise")}]
    inputs: list[dict[str, Any]] = contract["inputs"]
    return inputs


def normalise_from_contract(described: Mapping[str, Any]) -> Normalise:
    """The normalisation with the numbers of one of `contract_inputs`, independent of today's sensors.SCALINGS."""
    scaling = described["normalise"]
    low, high = -math.inf, math.inf
    scalings = [
        Scaling(low if b["low"] is None else b["low"], high if b["high"] is None else b["high"], b["mean"], b["std"])
        for b in scaling["bands"]
    ]
    return Normalise(scaling["name"], tuple(described["bands"]), described["units"], scalings)


def _finite(limit: float) -> float | None:
    return limit if math.isfinite(limit) else None


def _package_version() -> str | None:
    try:
        return version("rspretrain")
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit of the package's source tree, or None without a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
