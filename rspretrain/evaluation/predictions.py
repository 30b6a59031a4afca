"""Write predictions as a CSV table and, if locations are known, a GeoJSON map.

predictions.csv        key, probability of each class, and `labels`: the predicted classes, separated by ;
predictions.geojson    the same with each sample's footprint (RFC 7946: longitude, latitude in degrees)
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rspretrain.files import atomic
from rspretrain.nn.classifier_files import LabelSpec

SEPARATOR = ";"


@dataclass(frozen=True)
class Predictions:
    """Predictions for N samples."""

    keys: list[str]
    probabilities: Tensor  # [N K] float32 on the CPU
    corners: NDArray[np.float64]  # [N 5 2] in the layout of rows.corners_of: degrees, NaN if unknown

    @property
    def has_location(self) -> NDArray[np.bool_]:
        """[N] bool: whether the sample's location is known."""
        return np.asarray(np.isfinite(self.corners).all(axis=(1, 2)))


def predicted_labels(probabilities: Tensor, label_spec: LabelSpec) -> list[list[str]]:
    """Per row of [N K]: the classes above the threshold (multi-label, maybe none), or the most probable class."""
    if label_spec.multi:
        return [
            [name for name, over in zip(label_spec.classes, row, strict=True) if over]
            for row in (probabilities > label_spec.threshold).tolist()
        ]
    return [[label_spec.classes[best]] for best in probabilities.argmax(dim=1).tolist()]


def write_predictions(out: Path, found: Predictions, label_spec: LabelSpec) -> list[Path]:
    """Write `out` and, if any location is known, its .geojson, each atomically. Otherwise, delete an older .geojson."""
    map_path = out.with_suffix(".geojson")
    out.parent.mkdir(parents=True, exist_ok=True)
    labels = predicted_labels(found.probabilities, label_spec)
    with atomic(out) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["key", *label_spec.classes, "labels"])
        for key, row, names in zip(found.keys, found.probabilities.numpy(), labels, strict=True):
            # numpy prints the shortest text that parses to the same float32
            writer.writerow([key, *map(str, row), SEPARATOR.join(names)])
        text.detach()  # flushes without closing the file
    if not found.has_location.any():
        map_path.unlink(missing_ok=True)
        return [out]
    with atomic(map_path) as file:
        file.write(b'{"type": "FeatureCollection", "features": [\n')
        for number, feature in enumerate(_features(found, label_spec, labels)):
            file.write(b",\n" * bool(number) + json.dumps(feature, allow_nan=False).encode())
        file.write(b"\n]}\n")
    return [out, map_path]


def _features(found: Predictions, label_spec: LabelSpec, labels: list[list[str]]) -> Iterator[dict[str, Any]]:
    """A GeoJSON feature per sample; without a location its geometry is null, which the format allows."""
    columns = found.keys, found.probabilities.numpy(), labels, found.corners, found.has_location
    for key, row, names, corners, has_location in zip(*columns, strict=True):
        ring = corners[[0, 1, 2, 3, 0]].tolist()  # counterclockwise
        probabilities = {name: float(str(value)) for name, value in zip(label_spec.classes, row, strict=True)}
        yield {
            "type": "Feature",
            "id": key,
            "geometry": {"type": "Polygon", "coordinates": [ring]} if has_location else None,
            "properties": {"key": key, "labels": names, "probabilities": probabilities},
        }
