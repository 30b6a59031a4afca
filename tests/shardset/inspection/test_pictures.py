"""The pictures of a sample, per band, and the colours of map codes."""

import numpy as np
import pytest
from fakes.memory import PAIR_GROUPS, MemoryArchive

from rspretrain.archives.corine import CLC43
from rspretrain.sensors import Group
from rspretrain.shardset.inspection import pictures
from rspretrain.shardset.inspection.pictures import (
    Picture,
    code_colour,
    code_name,
    code_shares,
    colour_codes,
    composite,
    limits,
    pictures_of,
)

S2 = Group("s2", "s2", ("B04",), "uint16", None, 10.0, "dn")
RGB = Group("rgb", "rgb", ("R", "G", "B"), "uint8", None, None, "grey")
CLC = Group("map_10m", "map", ("clc",), "uint16", None, 10.0, "class", nodata=999.0)


def other(*bands: str, name: str = "other_3m") -> Group:
    return Group(name, "other", bands, "uint16", None, 3.0, "dn")


def shown(*groups: Group) -> list[Picture]:
    rng = np.random.default_rng(0)
    images = {group.name: rng.integers(1, 9, (len(group.bands), 4, 4)).astype(group.dtype) for group in groups}
    return pictures_of(groups, images)


def titles(*groups: Group) -> list[str]:
    return [f"{picture.title}: {' '.join(picture.bands)}" for picture in shown(*groups)]


def test_a_pair_shows_colours_and_backscatter_of_the_right_bands():
    images = {group.name: MemoryArchive().pixels(3, group) for group in PAIR_GROUPS}
    true, false, vv, vh = pictures_of(PAIR_GROUPS, images)
    assert [picture.bands for picture in (true, false, vv, vh)] == [
        ("B04", "B03", "B02"), ("B08", "B04", "B03"), ("VV",), ("VH",),
    ]  # fmt: skip
    blue, green, red, near_infrared = images["s2_10m"]
    np.testing.assert_array_equal(true.pixels, composite(np.stack([red, green, blue]), S2))
    np.testing.assert_array_equal(false.pixels, composite(np.stack([near_infrared, red, green]), S2))
    np.testing.assert_array_equal(vh.pixels, images["s1_10m"][1])


def test_maps_come_last_band_by_band():
    lc = Group("lc_10m", "map", ("igbp", "lccs_use"), "uint8", None, 10.0, "class")
    assert titles(lc, *PAIR_GROUPS[:2], CLC)[-3:] == ["classes: igbp", "classes: lccs_use", "classes: clc"]


def test_bands_without_a_composite_are_shown():
    assert titles(*PAIR_GROUPS[2:]) == ["s2_20m, first bands: B05 B06 B07", "s2_60m: B01", "s2_60m: B09"]
    assert titles(PAIR_GROUPS[1], PAIR_GROUPS[3])[1:] == ["false colour, near infrared: B08 B04 B03"]


def test_any_instrument_is_grey_or_a_composite():
    assert titles(other("pan")) == ["other_3m: pan"]
    assert titles(other("b1", "b2", "b3", "b4")) == ["other_3m, first bands: b1 b2 b3"]
    assert titles(other("Blue", "Green", "Red", "NIR")) == ["true colour: Red Green Blue"]
    two = titles(other("b1", "b2", "b3"), other("t1", "t2", name="other_9m"))
    assert two == ["other_3m, first bands: b1 b2 b3", "other_9m: t1", "other_9m: t2"]


def test_the_stretch_is_between_percentiles():
    ramp = np.arange(101.0).reshape(1, 101)
    picture = composite(np.stack([ramp, ramp, np.full_like(ramp, 7.0)]), S2)
    np.testing.assert_allclose(picture[0, [0, 2, 50, 98, 100], 0], [0, 0, 0.5, 1, 1], atol=1e-6)
    assert np.isfinite(picture).all()  # a constant band too
    np.testing.assert_allclose(composite(np.stack([ramp] * 3), RGB)[0, 51], 0.2)


def test_nodata_does_not_decide_the_stretch():
    band = np.concatenate([np.arange(101.0), np.full(400, -9999.0)])
    assert limits(band, -9999.0) == (2.0, 98.0)
    assert limits(band, None)[0] == -9999.0
    assert limits(band[101:], -9999.0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("band", "code", "name"),
    [
        ("clc", 312, "312 Coniferous forest"),
        ("clc", 999, "999 unlabelled"),
        ("igbp", 14, "14 Croplands"),
        ("dfc", 10, "10 Water"),
        ("dfc", 3, "3 Savanna"),
        ("lccs_use", 25, "25"),
    ],
)
def test_codes_have_names(band, code, name):
    assert code_name(band, code) == name


def test_codes_have_one_colour_each():
    assert len(pictures._CLC_COLOURS) == len(CLC43)
    known = [code_colour("clc", code) for code in CLC43]
    assert len(set(known)) == len(known)
    assert code_colour("clc", 111) == (0xE6 / 255, 0, 0x4D / 255)
    assert code_colour("clc", 523) == (0xE6 / 255, 0xF2 / 255, 1)
    assert code_colour("igbp", 17) == code_colour("dfc", 10)  # water
    unknown = [code_colour("lccs_use", code) for code in range(256)]
    assert len(set(unknown)) == 256
    assert code_colour("clc", 999) == code_colour("dfc", 0) == code_colour("lccs_use", 9, nodata=9.0)


def test_a_map_is_coloured_and_counted():
    codes = np.array([[312, 312, 999], [312, 523, 999]], dtype=np.uint16)
    picture = colour_codes(codes, "clc", 999.0)
    assert picture.shape == (2, 3, 3)
    np.testing.assert_allclose(picture[0, 0], code_colour("clc", 312), atol=1e-6)
    np.testing.assert_allclose(picture[1, 1], code_colour("clc", 523), atol=1e-6)
    assert code_shares(codes) == [(312, 0.5), (999, 1 / 3), (523, 1 / 6)]
