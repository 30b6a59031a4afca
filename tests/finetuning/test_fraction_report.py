import csv
import io

import pytest
from matplotlib.image import imread

from rspretrain.finetuning.fraction_report import CellResult, as_csv, draw, summarise, table


def cell(method, fraction, seed, top1):
    return CellResult(method, fraction, seed, round(100 * fraction), 9, {"top1": top1, "average_accuracy": 0.5})


CELLS = [
    cell("scratch", 1.0, 0, 0.6), cell("scratch", 0.1, 0, 0.2), cell("scratch", 0.1, 1, 0.4),
    cell("pretrained", 0.1, 0, 0.5), cell("pretrained", 0.1, 1, 0.5), cell("pretrained", 1.0, 0, 0.9),
]  # fmt: skip


def test_means_and_deviations_over_the_seeds():
    points = {(one.method, one.fraction): one for one in summarise(CELLS)}
    assert list(points) == [("scratch", 0.1), ("scratch", 1.0), ("pretrained", 0.1), ("pretrained", 1.0)]
    few = points["scratch", 0.1]
    assert (few.num_seeds, few.n_train) == (2, 10)
    assert few.mean["top1"] == pytest.approx(0.3)
    assert few.std["top1"] == pytest.approx(0.02**0.5)  # numpy's with ddof=1
    assert points["scratch", 1.0].std["top1"] is None  # one seed has no deviation


def test_the_table_has_a_line_per_method_and_gaps_for_missing_runs():
    lines = table(summarise(CELLS[:5]), "top1").splitlines()
    assert lines[0] == "top1, percent; mean and standard deviation of 1/2 seeds"
    assert [line.split("  ")[0] for line in lines[2:]] == ["label fraction", "scratch", "pretrained"]
    assert lines[2].split()[2:] == ["10", "%", "100", "%"]
    assert lines[3].split()[1:] == ["30.0", "±", "14.1", "60.0"]
    assert lines[4].split()[1:] == ["50.0", "±", "0.0", "-"]


def test_the_csv_has_all_runs_and_metrics():
    rows = list(csv.DictReader(io.StringIO(as_csv(CELLS))))
    assert len(rows) == 6
    assert rows[1] == {
        "method": "scratch", "fraction": "0.1", "seed": "0", "n_train": "10", "step": "9", "top1": "0.2",
        "average_accuracy": "0.5",
    }  # fmt: skip


def test_the_plot_shows_means_and_bands(tmp_path):
    figure = draw(summarise(CELLS), "top1", tmp_path / "plot.png", "ucm")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["scratch"].get_xydata().tolist() == [[0.1, pytest.approx(30.0)], [1.0, pytest.approx(60.0)]]
    assert lines["pretrained"].get_ydata().tolist() == pytest.approx([50.0, 90.0])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(30 - 14.142, abs=1e-3), pytest.approx(60.0))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10 %", "100 %"]
    assert axes.get_xscale() == "log"
    assert imread(tmp_path / "plot.png").std() > 0.01
