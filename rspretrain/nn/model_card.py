"""Model cards of exported backbones and classifiers: Markdown with Hugging Face's front matter."""

import json
from typing import Any

from rspretrain.nn.backbones import Backbone

_CARD = """---
library_name: timm
license: {license}
tags:
- feature-extraction
- remote-sensing
- self-supervised
{tags}
datasets: {datasets}
---

# {title}

`{architecture}` for {num_bands} bands of sensor `{sensor}`, pretrained without labels by rspretrain.
Input: [B {num_bands} {px} {px}], scaled as below. Output: [B {width}] features.

```python
import timm, torch

model = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True).eval()
features = model(torch.zeros(1, {num_bands}, {px}, {px}))  # [1 {width}]
```

## Bands, in the order of the channels

Input = (clip(pixel, low, high) - mean) / std.{scaling}

| channel | sensor | band | low | high | mean | std |
|---|---|---|---|---|---|---|
{rows}

## Provenance

```json
{provenance}
```
"""


_CLASSIFIER = """---
license: {license}
tags:
- image-classification
- remote-sensing
{tags}
datasets: {datasets}
---

# {title}

Classifier `{name}` for {num_classes} classes of the nomenclature `{nomenclature}`, {kind}, fine-tuned by rspretrain.
Input: {inputs}, scaled as below, {view}. Output: logits [B {num_classes}]; {decision}.
Replace a missing sensor by zeros after scaling.

    rspretrain predict --classifier PATH/TO/THIS/FOLDER --shards SHARDS --out predictions.csv

```python
from rspretrain.nn.classifier_files import load_classifier

classifier, contract = load_classifier("PATH/TO/THIS/FOLDER")
```

## Classes, in the order of the logits

{classes}
{results}
## Bands, in the order of the channels

Input = (clip(pixel, low, high) - mean) / std.{scaling}

| input | channel | sensor | band | low | high | mean | std |
|---|---|---|---|---|---|---|---|
{rows}

## Networks

{networks}

## Provenance

```json
{provenance}
```
"""


def model_card(title: str, backbone: Backbone, contract: dict[str, Any]) -> str:
    """README.md of an exported backbone. The front matter has `provenance["datasets"]` (list) and `["license"]`."""
    provenance, inputs = contract["provenance"], contract["inputs"]
    bands = [(one["sensor"], band) for one in inputs for band in one["normalise"]["bands"]]
    rows = [
        f"| {channel} | {sensor} | {b['name']} | {_cell(b['low'])} | {_cell(b['high'])} | {b['mean']:.8g} "
        f"| {b['std']:.8g} |"
        for channel, (sensor, b) in enumerate(bands)
    ]
    return _CARD.format(
        title=title,
        license=provenance.get("license", "unknown"),
        tags="\n".join(f"- {one['sensor']}" for one in inputs),
        datasets=json.dumps(provenance.get("datasets", [])),
        sensor=backbone.sensor,
        architecture=backbone.architecture,
        num_bands=len(backbone.bands),
        px=backbone.px,
        width=backbone.num_features,
        scaling="".join(_scaling(one) for one in inputs),
        rows="\n".join(rows),
        provenance=json.dumps(provenance, indent=2),
    )


def _scaling(one: dict[str, Any]) -> str:
    """Units and scaling of a sensor, in one or two sentences."""
    text = f"\nPixels of `{one['sensor']}` are in `{one['units']}` (scaling `{one['normalise']['name']}`)."
    epsilon = one["normalise"].get("divide_by_image_maximum_plus")
    return text + (f" Then every band is divided by its maximum in the image + {epsilon:g}." if epsilon else "")


def _cell(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:.8g}"


def classifier_card(title: str, contract: dict[str, Any]) -> str:
    """README.md of an exported classifier. The results are the numbers in `provenance["results"]`."""
    provenance, inputs, classes = contract["provenance"], contract["inputs"], contract["classes"]
    crop_px, threshold = contract["crop_px"], contract["threshold"]
    return _CLASSIFIER.format(
        title=title,
        license=provenance.get("license", "unknown"),
        tags="\n".join(f"- {sensor}" for sensor in dict.fromkeys(one["sensor"] for one in inputs)),
        datasets=json.dumps(provenance.get("datasets", [])),
        name=contract["classifier"]["name"],
        nomenclature=contract["nomenclature"],
        num_classes=len(classes),
        kind="multi-label" if contract["multi"] else "single-label",
        inputs=" and ".join(f"`{o['name']}` [B {len(o['bands'])} {o['px']} {o['px']}]" for o in inputs),
        view=f"the central {crop_px} x {crop_px} pixels of the finest grid" if crop_px else "of the whole image",
        decision=f"predict every class with a sigmoid over {threshold:g}"
        if contract["multi"]
        else "predict the class with the largest logit",
        classes="\n".join(f"{number}. {name}" for number, name in enumerate(classes)),
        results=_results(provenance.get("results", {})),
        scaling="".join(_scaling({**one, "sensor": one["name"]}) for one in inputs),
        rows="\n".join(
            f"| {one['name']} | {channel} | {one['sensor']} | {b['name']} | {_cell(b['low'])} | {_cell(b['high'])} "
            f"| {b['mean']:.8g} | {b['std']:.8g} |"
            for one in inputs
            for channel, b in enumerate(one["normalise"]["bands"])
        ),
        networks="\n".join(f"- {_network(one)}" for one in contract["backbones"]) or "One network without a backbone.",
        provenance=json.dumps(provenance, indent=2),
    )


def _network(backbone: dict[str, Any]) -> str:
    args = json.dumps(backbone["model_args"])
    return f"`{backbone['sensor']}`: `{backbone['architecture']}` at {backbone['px']} px, {args}"


def _results(results: dict[str, Any]) -> str:
    """A table of the numbers among the results, or nothing."""
    numbers = {name: value for name, value in results.items() if isinstance(value, int | float)}
    rows = "\n".join(f"| {name} | {value:.4g} |" for name, value in numbers.items())
    return f"\n## Results\n\n| metric | value |\n|---|---|\n{rows}\n" if rows else ""
