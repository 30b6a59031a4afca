"""What a classifier said of samples, as people read it: a table, and a map where places are known.

predictions.csv        key, the probability of every class, and `labels`: the classes that are given, with ; between
predictions.geojson    the footprint of every sample with the same (RFC 7946: longitude, latitude in degrees)
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
from rspretrain.nn.classifier_files import Answers

SEPARATOR = ";"


@dataclass(frozen=True)
class Predictions:
    """Of N samples."""

    keys: list[str]
    probabilities: Tensor  # [N K] float32 on the CPU
    corners: NDArray[np.float64]  # [N 5 2] as of footprints.corners_of: degrees, NaN where unknown

    @property
    def placed(self) -> NDArray[np.bool_]:
        """[N]: whether it is known where a sample lies."""
        return np.asarray(np.isfinite(self.corners).all(axis=(1, 2)))


def given_labels(probabilities: Tensor, answers: Answers) -> list[list[str]]:
    """Of every row of [N K] the classes over the threshold, perhaps none; or the best where an image has one class."""
    if answers.multi:
        return [
            [name for name, over in zip(answers.classes, row, strict=True) if over]
            for row in (probabilities > answers.threshold).tolist()
        ]
    return [[answers.classes[best]] for best in probabilities.argmax(dim=1).tolist()]


def write_predictions(out: Path, found: Predictions, answers: Answers) -> list[Path]:
    """`out` and, where any place is known, its .geojson, each whole or absent; an older .geojson does not stay."""
    map_path = out.with_suffix(".geojson")
    out.parent.mkdir(parents=True, exist_ok=True)
    labels = given_labels(found.probabilities, answers)
    with atomic(out) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["key", *answers.classes, "labels"])
        for key, row, names in zip(found.keys, found.probabilities.numpy(), labels, strict=True):
            # numpy's shortest text of a float32, which reads back as the same number
            writer.writerow([key, *map(str, row), SEPARATOR.join(names)])
        text.detach()  # flushes; closing the file is not its business
    if not found.placed.any():
        map_path.unlink(missing_ok=True)
        return [out]
    with atomic(map_path) as file:
        file.write(b'{"type": "FeatureCollection", "features": [\n')
        for number, feature in enumerate(_features(found, answers, labels)):
            file.write(b",\n" * bool(number) + json.dumps(feature, allow_nan=False).encode())
        file.write(b"\n]}\n")
    return [out, map_path]


def _features(found: Predictions, answers: Answers, labels: list[list[str]]) -> Iterator[dict[str, Any]]:
    """GeoJSON of every sample; one without a place has no geometry, which the format allows."""
    rows = found.probabilities.numpy()
    for key, row, names, corners, placed in zip(found.keys, rows, labels, found.corners, found.placed, strict=True):
        ring = corners[[0, 1, 2, 3, 0]].tolist()  # counterclockwise
        shares = {name: float(str(value)) for name, value in zip(answers.classes, row, strict=True)}
        yield {
            "type": "Feature",
            "id": key,
            "geometry": {"type": "Polygon", "coordinates": [ring]} if placed else None,
            "properties": {"key": key, "labels": names, "probabilities": shares},
        }
