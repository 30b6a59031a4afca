"""The CSV and the GeoJSON: exact numbers, any class names, atomic writes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rspretrain.evaluation.predictions import Predictions, predicted_labels, write_predictions
from rspretrain.nn.classifier_files import LabelSpec

CLASSES = ("Forest, mixed", "Söll", "Water")
MULTI_LABEL, SINGLE_LABEL = LabelSpec("all", CLASSES, multi=True), LabelSpec("class", CLASSES, multi=False)
SQUARE = [[10.0, 50.0], [10.1, 50.0], [10.1, 50.1], [10.0, 50.1], [10.05, 50.05]]
UNKNOWN = [[np.nan, np.nan]] * 5


def predictions(*corners: list[list[float]]) -> Predictions:
    probabilities = torch.tensor([[0.1, 1 / 3, 0.50001], [0.9, 0.7, 1e-9], [0.5, 0.4, 0.3]])[: len(corners)]
    return Predictions(["a", "b", "c"][: len(corners)], probabilities, np.array(corners))


def test_labels_are_above_the_threshold_or_the_most_probable() -> None:
    probabilities = predictions(SQUARE, SQUARE, SQUARE).probabilities
    assert predicted_labels(probabilities, MULTI_LABEL) == [["Water"], ["Forest, mixed", "Söll"], []]
    assert predicted_labels(probabilities, SINGLE_LABEL) == [["Water"], ["Forest, mixed"], ["Forest, mixed"]]
    strict = LabelSpec("all", CLASSES, multi=True, threshold=0.8)
    assert predicted_labels(probabilities, strict) == [[], ["Forest, mixed"], []]


def test_the_csv_reads_back_bit_for_bit(tmp_path: Path) -> None:
    found = predictions(SQUARE, UNKNOWN, SQUARE)
    write_predictions(tmp_path / "deep/out.csv", found, MULTI_LABEL)
    with (tmp_path / "deep/out.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["key", *CLASSES, "labels"]
    assert [(row[0], row[-1]) for row in rows] == [("a", "Water"), ("b", "Forest, mixed;Söll"), ("c", "")]
    read = np.array([row[1:-1] for row in rows], dtype=np.float32)
    assert np.array_equal(read, found.probabilities.numpy())


def test_the_geojson_has_footprints_and_the_same_numbers(tmp_path: Path) -> None:
    found = predictions(SQUARE, UNKNOWN)
    paths = write_predictions(tmp_path / "out.csv", found, MULTI_LABEL)
    assert [path.name for path in paths] == ["out.csv", "out.geojson"]
    first, second = json.loads(paths[1].read_text())["features"]
    assert first["geometry"] == {"type": "Polygon", "coordinates": [[*SQUARE[:4], SQUARE[0]]]}
    assert (first["id"], first["properties"]["labels"]) == ("a", ["Water"])
    assert np.float32(first["properties"]["probabilities"]["Söll"]) == found.probabilities[0, 1].numpy()
    assert second["geometry"] is None


def test_geopandas_opens_the_geojson(tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    _, path = write_predictions(tmp_path / "out.csv", predictions(SQUARE, SQUARE), MULTI_LABEL)
    frame = geopandas.read_file(path)
    assert frame.crs.to_epsg() == 4326
    assert frame.total_bounds.tolist() == [10.0, 50.0, 10.1, 50.1]
    assert frame.geometry.is_valid.all()
    assert frame["key"].tolist() == ["a", "b"]


def test_without_locations_no_geojson_is_written_and_an_old_one_is_deleted(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out.csv", predictions(SQUARE), MULTI_LABEL)
    assert write_predictions(tmp_path / "out.csv", predictions(UNKNOWN), SINGLE_LABEL) == [tmp_path / "out.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_a_failure_leaves_the_old_csv(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out.csv", predictions(SQUARE), MULTI_LABEL)
    before = (tmp_path / "out.csv").read_bytes()
    broken = Predictions(["a"], torch.zeros(2, 3), np.array([SQUARE]))  # two rows for one sample
    with pytest.raises(ValueError, match="zip"):
        write_predictions(tmp_path / "out.csv", broken, MULTI_LABEL)
    assert (tmp_path / "out.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.geojson"]
