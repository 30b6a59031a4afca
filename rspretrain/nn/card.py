"""The model card of an exported backbone: Markdown with Hugging Face's front matter."""

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


def model_card(title: str, backbone: Backbone, contract: dict[str, Any]) -> str:
    """README.md of an export. `provenance["datasets"]` (list) and `["license"]` go into the front matter if given."""
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
    """Units and scaling of a sensor, in a sentence or two."""
    text = f"\nPixels of `{one['sensor']}` are in `{one['units']}` (scaling `{one['normalise']['name']}`)."
    epsilon = one["normalise"].get("divide_by_image_maximum_plus")
    return text + (f" Then every band is divided by its own maximum in the image + {epsilon:g}." if epsilon else "")


def _cell(limit: float | None) -> str:
    return "none" if limit is None else f"{limit:.8g}"
