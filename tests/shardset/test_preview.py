import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, memory_shards
from PIL import Image
from rasterio.warp import transform

from rspretrain.shardset.index import ShardSet
from rspretrain.shardset.preview import composite, describe, draw_sheet, panels, place, row_of, summary, utm_degrees

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("preview") / "shards", samples=20)


def inspect(*args: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(REPOSITORY / "shards/inspect.py"), *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, env=environment)


def test_summary_counts_what_is_there(shards: ShardSet) -> None:
    text = summary(shards)
    assert "archive memory, 20 samples, 3 shards" in text
    assert "splits: test 4, train 16" in text
    assert "s2_20m    s2      uint16   6x6          20      dn     B05 B06 B07 B8A B11 B12" in text
    assert "labels 'class': 3 classes, one a sample, 0 samples without" in text
    assert "\n        7  field\n" in text


def test_statistics_are_those_of_the_pixels(shards: ShardSet) -> None:
    row = row_of(shards, "patch-00007")
    pixels = shards.read(row)[0]["s2_10m"][3].astype(np.float64)
    (line,) = [line for line in describe(shards, row).splitlines() if " B08 " in line]
    expected = [f"{x:.2f}" for x in (pixels.min(), pixels.mean(), pixels.max(), pixels.std())]
    assert line.split() == ["s2_10m", "B08", "12x12", *expected, "dn"]


def test_an_unknown_key_names_near_ones(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match=r"no sample 'Patch_7' among its 20; the nearest keys are patch-.*lower case"):
        row_of(shards, "Patch_7")


def test_pictures_show_the_right_bands(shards: ShardSet) -> None:
    images, _ = shards.read(0)
    shown = dict(panels(shards, images))
    assert list(shown) == [
        "true colour\nB04 B03 B02", "false colour, near infrared\nB08 B04 B03", "backscatter\nVV", "backscatter\nVH",
    ]  # fmt: skip
    blue, green, red, near_infrared = images["s2_10m"]
    np.testing.assert_array_equal(shown["true colour\nB04 B03 B02"], composite([red, green, blue], stretch=True))
    np.testing.assert_array_equal(
        shown["false colour, near infrared\nB08 B04 B03"], composite([near_infrared, red, green], stretch=True)
    )
    np.testing.assert_array_equal(shown["backscatter\nVH"], images["s1_10m"][1])


def test_the_stretch_is_between_percentiles() -> None:
    ramp = np.arange(101.0).reshape(1, 101)
    picture = composite([ramp, ramp, np.full_like(ramp, 7.0)], stretch=True)
    np.testing.assert_allclose(picture[0, [0, 2, 50, 98, 100], 0], [0, 0, 0.5, 1, 1], atol=1e-6)
    assert np.isfinite(picture).all()  # a constant band too
    np.testing.assert_allclose(composite([ramp] * 3, stretch=False)[0, 51], 0.2)


@pytest.mark.parametrize(("zone", "south"), [(29, False), (35, False), (33, True), (1, False)])
def test_degrees_are_those_of_proj(zone: int, south: bool) -> None:
    crs = f"EPSG:32{7 if south else 6}{zone:02d}"
    for x, y in [(166_100.0, 5_000_000.0), (500_000.0, 100_000.0), (812_345.6, 7_654_321.0)]:
        (lon,), (lat,) = transform(crs, "EPSG:4326", [x], [y])
        np.testing.assert_allclose(utm_degrees(x, y, zone, south), (lat, lon), atol=1e-7)


def test_places_without_utm() -> None:
    metadata = {"attributes": {"country": "Austria"}, "bounds": None, "crs": None}
    assert place(metadata) == "Austria"
    metadata |= {"bounds": [0, 0, 10, 10], "crs": "EPSG:3035"}
    assert place(metadata) == "Austria, x 5 y 5, EPSG:3035"
    metadata |= {"crs": "EPSG:32633", "bounds": [499_990, 5_400_000, 500_010, 5_400_020]}
    assert place(metadata) == "Austria, 48.7531° N 15.0000° E, EPSG:32633"


def test_scenes_of_different_sizes_fit_on_a_sheet(tmp_path: Path) -> None:
    shards = memory_shards(tmp_path / "shards", samples=5, groups=SCENE_GROUPS)
    draw_sheet(shards, range(5), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > picture.height > 500


def test_a_set_without_known_composites_is_still_shown(tmp_path: Path) -> None:
    shards = memory_shards(tmp_path / "shards", samples=2, groups=PAIR_GROUPS[2:])
    assert [title for title, _ in panels(shards, shards.read(0)[0])] == ["s2_20m\nB05", "s2_60m\nB01"]


def test_the_command_draws_and_needs_no_torch(shards: ShardSet, tmp_path: Path) -> None:
    png = tmp_path / "sample.png"
    done = inspect(str(shards.path), "--sample", "patch-00003", "--png", str(png), cwd=REPOSITORY / "shards")
    assert done.returncode == 0, done.stderr
    assert "place: Finland, " in done.stdout
    with Image.open(png) as picture:
        assert picture.width > 1500
    code = "import sys, rspretrain.shardset.preview; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60).returncode == 0


def test_the_command_explains_bad_input(shards: ShardSet, tmp_path: Path) -> None:
    unknown = inspect(str(shards.path), "--sample", "nothing")
    nowhere = inspect(str(tmp_path))
    assert (unknown.returncode, nowhere.returncode) == (2, 2)
    assert "has no sample 'nothing'" in unknown.stderr
    assert "is not a shard set" in nowhere.stderr
    assert "Traceback" not in unknown.stderr + nowhere.stderr
