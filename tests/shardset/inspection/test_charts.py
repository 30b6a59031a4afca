"""Statistics as a table and as a picture."""

import numpy as np
import pytest
from PIL import Image

from rspretrain.sensors import Group
from rspretrain.shardset.inspection.charts import draw_statistics, shares_of_codes, statistics_lines
from rspretrain.shardset.statistics import Tally

GROUPS = (
    Group("s1", "s1", ("VV", "VH"), "float32", None, 10.0, "db"),
    Group("s2", "s2", ("B02", "B03", "B04"), "uint16", None, 10.0, "dn", nodata=0.0),
    Group("map", "map", ("clc",), "uint16", None, None, "class"),
)


def statistics(groups: tuple[Group, ...] = GROUPS) -> dict:
    rng = np.random.default_rng(0)
    tally = Tally(groups)
    images = {
        "s1": rng.normal(-13, 4, (2, 40, 40)).astype(np.float32),
        "s2": np.stack([rng.gamma(2, 600, (40, 40)) + 1, np.full((40, 40), 250), np.zeros((40, 40))]).astype(np.uint16),
        "map": rng.choice([111, 312, 523], (1, 40, 40)).astype(np.uint16),
    }
    tally.add({group.name: images[group.name] for group in groups})
    return tally.summary()


def test_the_table_has_a_line_for_every_band():
    head, vv, _, _, constant, empty, _ = statistics_lines(GROUPS, statistics())
    assert head.split() == [
        "group",
        "band",
        "pixels",
        "mean",
        "std",
        "min",
        "1",
        "%",
        "50",
        "%",
        "99",
        "%",
        "max",
        "units",
    ]
    found = statistics()["s1"]["VV"]
    assert vv.split()[:4] == ["s1", "VV", "1,600", f"{found.mean:.2f}"]
    assert vv.split()[-1] == "db"
    assert constant.split() == ["s2", "B03", "1,600", "250.0", "0", *["250.0"] * 5, "dn"]
    assert empty == "s2        B04                    0  no valid pixel"


def test_every_band_is_drawn(tmp_path):
    found = statistics()
    draw_statistics(GROUPS, found, tmp_path / "all.png", "a title")
    draw_statistics(GROUPS[:1], found, tmp_path / "two.png")
    with Image.open(tmp_path / "all.png") as all_bands, Image.open(tmp_path / "two.png") as two_bands:
        assert all_bands.width > 1.5 * two_bands.width > 900  # four panels per line, and two
        assert all_bands.height > 1.5 * two_bands.height > 300
        colours = {colour for _, colour in all_bands.convert("RGB").getcolors(1 << 24)}
    assert (0x3B, 0x6F, 0xAE) in colours  # B02 is blue
    assert (0xB5, 0x44, 0x3A) not in colours  # B04 has no pixels, so nothing is red


def test_the_same_statistics_give_the_same_picture(tmp_path):
    for name in ("a.png", "b.png"):
        draw_statistics(GROUPS, statistics(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_maps_have_shares_of_codes_instead_of_percentiles(tmp_path):
    groups = (
        Group("dfc_10m", "map", ("dfc",), "uint8", None, 10.0, "class"),
        Group("map", "map", ("clc",), "uint16", None, None, "class"),
    )
    tally = Tally(groups)
    tally.add({"dfc_10m": np.array([[[1] * 5 + [10] * 3 + [0] * 2]], np.uint8), "map": np.array([[[111, 523]]], "u2")})
    found = tally.summary()
    dfc, clc = statistics_lines(groups, found)[1:]
    assert dfc.split(None, 3)[2:] == ["10", "1 Forest 50.0%, 10 Water 30.0%, 0 invalid 20.0%"]
    assert clc.split(None, 3)[2:] == ["2", "111 Continuous urban fabric 50.0%, 523 Sea and ocean 50.0%"]
    assert shares_of_codes(found["dfc_10m"]["dfc"]) == [(1, 0.5), (10, 0.3), (0, 0.2)]
    assert shares_of_codes(found["map"]["clc"]) == [(111, 0.5), (523, 0.5)]  # far apart
    draw_statistics(groups, found, tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert any(np.abs(np.subtract(colour, (127.5, 204, 127.5))).max() <= 1 for colour in colours)  # forest, on white


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match=r"No statistics of \['s1', 's2', 'map'\], expected those of at least one band"
    ):
        draw_statistics(GROUPS, {}, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
