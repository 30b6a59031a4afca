"""SEN12MS: splits by scene, the damaged patch, land cover and its labels, the real pair."""

from pathlib import Path

import numpy as np
import pytest
from fakes.rois import write_sen12ms
from laws import check_archive, check_record

from rspretrain.archives import open_archive
from rspretrain.archives.sen12ms import HOLD_OUT, IGBP_CODES, Sen12Ms, igbp_labels
from rspretrain.patch import Exclusion
from rspretrain.sensors import BAND_ORDER

REAL = Path(__file__).parents[2].parent / "shared/data/sen12ms"
SIMPLIFIED = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 6, 8, 9, 10)  # docs/methods.md, SEN12MS: position = IGBP code


def files(archive):
    return lambda entry: {
        group.name: [archive.root / entry.source.files[kind]] for kind, group in archive.group_of.items()
    }


def test_groups_and_bands(tmp_path):
    archive = Sen12Ms(write_sen12ms(tmp_path, size=256, patches=1), maps=True)
    s1, s2, lc = archive.groups
    assert (s1.bands, s1.dtype, s1.shape, s1.units) == (("VV", "VH"), "float32", (256, 256), "db")
    assert (s2.bands, s2.dtype, s2.shape, s2.gsd_m, s2.units) == (BAND_ORDER["s2"], "uint16", (256, 256), 10.0, "dn")
    assert (lc.sensor, lc.bands) == ("map", ("igbp", "lccs_cover", "lccs_use", "lccs_hydrology"))


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ([], ["s1_10m", "s2_10m"]),
        (["sensors=s1"], ["s1_10m"]),
        (["sensors=s2", "labels=true"], ["s2_10m"]),
        (["sensors=s2,s1", "maps=true"], ["s1_10m", "s2_10m", "lc_10m"]),
    ],
)
def test_command_line_options(tmp_path, options, groups):
    archive = open_archive("sen12ms", [str(write_sen12ms(tmp_path))], options)
    assert [group.name for group in archive.groups] == groups
    assert list(archive.nomenclatures) == (["igbp", "igbp_multi"] if {"labels=true", "maps=true"} & {*options} else [])
    check_archive(archive, {}, files(archive))
    for entry in archive.entries()[0]:
        check_record(archive, archive.read(entry))


def test_invalid_options(tmp_path):
    write_sen12ms(tmp_path)
    with pytest.raises(ValueError, match=r"sensors \('s1', 's1'\), expected s1, s2 or both once. Give sensors=s1,s2"):
        Sen12Ms(tmp_path, sensors=("s1", "s1"))
    with pytest.raises(ValueError, match="sensors='s1,s3', expected s1 or s2 .several separated by commas"):
        open_archive("sen12ms", [str(tmp_path)], ["sensors=s1,s3"])


def test_hold_out_is_by_scene_and_season(tmp_path):
    assert sum(map(len, HOLD_OUT.values())) == 26
    scenes = (("ROIs1868_summer", 19), ("ROIs1158_spring", 19), ("ROIs1158_spring", 63), ("ROIs1970_fall", 63))
    archive = Sen12Ms(write_sen12ms(tmp_path, scenes, patches=2))
    patches = [archive.read(entry) for entry in archive.entries()[0]]
    split_of = {(patch.attributes["season"], patch.attributes["scene"]): patch.split for patch in patches}
    assert split_of == {("summer", 19): "test", ("spring", 19): "train", ("spring", 63): "test", ("fall", 63): "train"}
    assert [patch.key for patch in patches][-2:] == ["rois1970_fall_63_p30", "rois1970_fall_63_p31"]
    assert patches[-1].attributes == {
        "season": "fall", "scene": 63, "patch": 31,
        "s1_name": "ROIs1970_fall_s1_63_p31", "s2_name": "ROIs1970_fall_s2_63_p31",
    }  # fmt: skip


def test_the_damaged_patch_is_left_out_by_name(tmp_path):
    for season, patch in (("ROIs1868_summer", 202), ("ROIs1158_spring", 202)):
        write_sen12ms(tmp_path, ((season, 146),), patches=1)
        for path in (tmp_path / season).rglob("*_p30.tif"):
            path.rename(path.with_name(path.name.replace("p30", f"p{patch}")))
    archive = Sen12Ms(tmp_path)
    check_archive(archive, {}, files(archive))
    (known,) = archive.entries()[1]
    assert isinstance(known, Exclusion)
    assert known.name == "ROIs1868_summer_146_p202"
    assert known.reason.startswith("is known as damaged: the archive's ROIs1868_summer_s1_146_p202.tif has NaN")
    assert [entry.name for entry in archive.entries()[0]] == ["ROIs1158_spring_146_p202"]


def test_simplified_igbp_equals_the_documented_table():
    names = ("", *IGBP_CODES)
    assert len(IGBP_CODES) == 10
    for code, simple in enumerate(SIMPLIFIED):
        expected = (names[simple],) if simple else ()
        labels = igbp_labels(np.full((4, 4), code, dtype=np.uint8))
        assert (labels.get("igbp", ()), labels["igbp_multi"]) == (expected, expected)


def test_labels_from_fractions():
    codes = np.zeros((10, 10), dtype=np.uint16)
    codes.ravel()[:10], codes.ravel()[10:19], codes.ravel()[19:25], codes.ravel()[25:31] = 17, 13, 12, 14
    # 10 % water, 9 % urban, 12 % of two croplands, the rest no class
    assert igbp_labels(codes) == {"igbp": ("Croplands",), "igbp_multi": ("Croplands", "Water")}
    assert igbp_labels(np.full((2, 2), 255)) == {"igbp_multi": ()}


@pytest.mark.skipif(not REAL.is_dir(), reason="no real SEN12MS pair at ../shared/data/sen12ms")
def test_real_pair():
    archive = Sen12Ms(REAL)
    check_archive(archive, {}, files(archive))
    (entry,) = archive.entries()[0]
    patch = archive.read(entry)
    check_record(archive, patch)
    assert (patch.key, patch.split, patch.crs) == ("rois1868_summer_19_p30", "test", "EPSG:32631")
    s1, s2 = patch.images["s1_10m"], patch.images["s2_10m"]
    assert s1[0].mean() > s1[1].mean()  # VV before VH
    assert -30 < s1.mean() < 0
    assert s2[10].mean() < 100 < s2[3].mean()  # B10 is the cirrus band: nearly black over land
