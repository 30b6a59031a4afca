import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes.memory import PAIR_GROUPS, SCENE_GROUPS, memory_shards
from fakes.rois import write_dfc2020
from PIL import Image
from rasterio.crs import CRS

from rspretrain.archives.dfc2020 import Dfc2020
from rspretrain.sensors import Group
from rspretrain.shardset.building.build import build_shards
from rspretrain.shardset.index import ShardSet, open_shards
from rspretrain.shardset.inspection.preview import (
    _short,
    describe,
    draw_sample,
    draw_sheet,
    location,
    row_of,
    shorten_middle,
    summary,
)

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return memory_shards(tmp_path_factory.mktemp("preview") / "shards", samples=20)


def inspect(*args: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(REPOSITORY / "shards/inspect.py"), *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, env=environment)


def test_summary_counts_samples_and_labels(shards: ShardSet) -> None:
    text = summary(shards)
    assert "archive memory, 20 samples, 3 shards" in text
    assert "splits: test 4, train 16" in text
    assert "s2_20m    s2      uint16   6x6          20      dn     B05 B06 B07 B8A B11 B12" in text
    assert "labels 'class': 3 classes, one per sample, 0 samples without" in text
    assert "\n        7  field\n" in text


def test_statistics_are_those_of_the_pixels(shards: ShardSet) -> None:
    row = row_of(shards, "patch-00007")
    pixels = shards.read(row)[0]["s2_10m"][3].astype(np.float64)
    (line,) = [line for line in describe(shards, row).splitlines() if " B08 " in line]
    expected = [f"{x:.2f}" for x in (pixels.min(), pixels.mean(), pixels.max(), pixels.std())]
    assert line.split() == ["s2_10m", "B08", "12x12", *expected, "dn"]


def test_an_unknown_key_names_similar_ones(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match=r"no sample 'Patch_7' among its 20; the nearest keys are patch-.*lower case"):
        row_of(shards, "Patch_7")


def test_locations_are_degrees_if_the_crs_is_known() -> None:
    metadata = {"attributes": {"country": "Austria"}, "bounds": None, "crs": None}
    assert location(metadata) == "Austria"
    metadata |= {"bounds": [0, 0, 10, 10]}
    assert location(metadata) == "Austria, x 5 y 5, unknown CRS"
    metadata |= {"crs": "EPSG:32633", "bounds": [499_990, 5_400_000, 500_010, 5_400_020]}
    assert location(metadata) == "Austria, 48.7531° N 15.0000° E, EPSG:32633"
    metadata |= {"crs": CRS.from_epsg(32733).to_wkt(), "attributes": {}}
    assert location(metadata) == "41.5516° S 15.0000° E, custom CRS"


def test_a_location_is_that_of_the_index(shards: ShardSet) -> None:
    metadata = shards.read(7)[1]
    lon, lat = (float(shards.numbers(name)[7]) for name in ("lon", "lat"))
    assert location(metadata) == f"{metadata['attributes']['country']}, {lat:.4f}° N {lon:.4f}° E, EPSG:32633"


def test_scenes_of_different_sizes_fit_on_a_sheet(tmp_path: Path) -> None:
    shards = memory_shards(tmp_path / "shards", samples=5, groups=SCENE_GROUPS)
    draw_sheet(shards, range(5), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > picture.height > 500


def test_long_text_is_shortened_in_the_middle() -> None:
    assert shorten_middle("short", 5) == "short"
    assert shorten_middle("s2a_msil2a_20220706t085611_240_480", 17) == "s2a_msil…_240_480"
    assert [len(shorten_middle("abcdefghij", size)) for size in (9, 8, 3)] == [9, 8, 3]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("field",), "patch-00001\nfield"),
        (("field", "forest", "water"), "patch-00001\nfield, forest, water"),
        (("a very long name of a class", "water"), "patch-00001\na very lo…f a class + 1 more"),
        (("one", "two", "three", "four", "five", "six", "seven"), "patch-00001\none, two, three, four + 3 more"),
        ((), "patch-00001"),
    ],
)
def test_labels_that_do_not_fit_are_counted(shards: ShardSet, labels: tuple[str, ...], message: str) -> None:
    metadata = {"key": "patch-00001", "labels": {"all": labels}}
    assert _short(shards, metadata, 30 if len(labels) > 3 else 28) == message


LONG = Group("other_30cm", "other", ("near_infrared_narrow", "t"), "float32", (8, 8), 0.3, "dn")
CODES = Group("lc_10m", "map", ("igbp", "lccs_use"), "uint8", (8, 8), 10.0, "class")


def test_long_names_are_separated_from_the_next_column(tmp_path: Path) -> None:
    shards = memory_shards(tmp_path / "shards", samples=3, groups=(LONG, CODES))
    lines = describe(shards, 0).splitlines()
    (head,) = [line for line in lines if line.startswith("  group")]
    place_of = head.index("pixels")
    assert [line[place_of:].split()[0] for line in lines if line.startswith(("  other_", "  lc_"))] == ["8x8"] * 4
    (igbp,) = [line for line in lines if " igbp " in line]
    assert igbp.count("%") == 6  # the most frequent codes, and the number of others
    assert igbp.endswith(" more")
    assert "other_30cm  other" in summary(shards)


@pytest.mark.parametrize("groups", [(LONG,), (CODES,), (LONG, CODES, *PAIR_GROUPS), PAIR_GROUPS[2:]])
def test_all_kinds_of_groups_are_drawn(groups: tuple[Group, ...], tmp_path: Path) -> None:
    shards = memory_shards(tmp_path / "shards", samples=3, groups=groups)
    draw_sample(shards, 0, tmp_path / "sample.png")
    draw_sheet(shards, range(3), tmp_path / "sheet.png")
    for name in ("sample.png", "sheet.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 300


def test_maps_are_drawn_in_the_colours_of_their_classes(tmp_path: Path) -> None:
    shards = open_shards(build_shards(Dfc2020(write_dfc2020(tmp_path / "dfc"), lc=True), tmp_path / "shards").out)
    draw_sheet(shards, range(4), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert {(0x00, 0x99, 0x00), (0xC2, 0x4F, 0x44), (0x1C, 0x0D, 0xFF)} <= colours  # forest, crops, water


def test_the_command_draws_and_needs_no_torch(shards: ShardSet, tmp_path: Path) -> None:
    png = tmp_path / "sample.png"
    done = inspect(str(shards.path), "--sample", "patch-00003", "--png", str(png), cwd=REPOSITORY / "shards")
    assert done.returncode == 0, done.stderr
    assert "location: Finland, " in done.stdout
    with Image.open(png) as picture:
        assert picture.width > 1500
    code = "import sys, rspretrain.shardset.inspection.preview; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60).returncode == 0


def test_the_command_explains_invalid_input(shards: ShardSet, tmp_path: Path) -> None:
    unknown = inspect(str(shards.path), "--sample", "nothing")
    nowhere = inspect(str(tmp_path))
    assert (unknown.returncode, nowhere.returncode) == (2, 2)
    assert "has no sample 'nothing'" in unknown.stderr
    assert "is not a shard set" in nowhere.stderr
    assert "Traceback" not in unknown.stderr + nowhere.stderr


def test_the_command_prints_and_draws_the_statistics(shards: ShardSet, tmp_path: Path) -> None:
    png = tmp_path / "bands.png"
    done = inspect(str(shards.path), "--statistics", str(png))
    assert done.returncode == 0, done.stderr
    found = shards.manifest.statistics["s2_60m"]["B09"]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("s2_60m    B09")]
    assert line.split()[2:4] == [f"{found.count:,}", f"{found.mean:.1f}"]
    assert "over the samples of split train, every pixel at its own resolution" in done.stdout
    assert done.stdout.endswith(f"picture: {png}\n")
    with Image.open(png) as picture:
        assert picture.width > 1500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sample", "patch-00001", "--statistics", "a.png"], "--statistics a.png draws the whole set"),
        (["--png", "nowhere/a.png"], "--png nowhere/a.png: nowhere is not an existing folder. Create it first"),
        (["--rows", "0"], "--rows 0: expected at least 1 sample"),
    ],
)
def test_invalid_arguments_are_explained(shards: ShardSet, arguments: list[str], message: str) -> None:
    done = inspect(str(shards.path), *arguments)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_closed_pipe_is_no_error(shards: ShardSet, tmp_path: Path) -> None:
    png = tmp_path / "sheet.png"
    command = [sys.executable, str(REPOSITORY / "shards/inspect.py"), str(shards.path), "--png", str(png)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, f"Opening {shards.path} …\n")
    assert png.is_file()
