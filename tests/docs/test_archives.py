"""docs/archives.md explains every archive, with every source, option, band, label and attribute."""

import re
from pathlib import Path

import pytest
from fakes.bigearthnet import write_bigearthnet, write_lists
from fakes.bigearthnet_v2 import write_bigearthnet_v2
from fakes.eurosat import write_eurosat
from fakes.geotiff import write_band_folder, write_s1
from fakes.rois import write_dfc2020, write_sen12ms
from fakes.scenes import (
    write_aid_multilabel,
    write_folder,
    write_resisc45,
    write_rsscn7,
    write_ucmerced,
)

from docs.pages import PAGES, section
from rspretrain.archives import ARCHIVES, _text, open_archive, parameters_of


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_source_and_option_is_documented(name):
    text = section("archives", name)
    assert f"rspretrain build {name} --source " in text
    paths, choices = parameters_of(name)
    for source in paths:
        assert re.search(rf"^\| (`\w+` )*`{source}` (`\w+` )*\| \S", text, re.MULTILINE), source
    for option, parameter in choices.items():
        row = re.search(rf"^\| (?:`\w+` )*`{option}` (?:`\w+` )*\| ([^|]*) \| \S", text, re.MULTILINE)
        assert row, option
        assert row[1].strip("`") == _text(parameter.default).replace("…", "none"), option


def write_v1(root: Path) -> list[str]:
    write_lists(write_bigearthnet(root, pairs=10))
    return [f"{source}={root}" for source in ("s2", "s1", "splits")]


FAKES = {
    "bigearthnet": write_v1,
    "bigearthnet-v2": lambda root: [str(write_bigearthnet_v2(root, pairs=6))],
    "sen12ms": lambda root: [str(write_sen12ms(root))],
    "dfc2020": lambda root: [str(write_dfc2020(root))],
    "geotiff": lambda root: [f"s2={write_band_folder(root / 's2/a')}", f"s1={write_s1(root / 's1/b.tif').parent}"],
    "ucmerced": lambda root: [str(write_ucmerced(root))],
    "aid": lambda root: [str(write_aid_multilabel(root))],
    "resisc45": lambda root: [str(write_resisc45(root))],
    "rsscn7": lambda root: [str(write_rsscn7(root))],
    "eurosat": lambda root: [str(write_eurosat(root))],
    "folder": lambda root: [str(write_folder(root))],
}  # fmt: skip
OPTIONS = {"sen12ms": ["maps=true"], "dfc2020": ["lc=true"], "geotiff": ["window=12"]}


@pytest.mark.parametrize("name", ARCHIVES)
def test_groups_bands_labels_and_attributes_are_documented(name, tmp_path):
    archive = open_archive(name, FAKES[name](tmp_path), OPTIONS.get(name, []))
    patch = archive.read(archive.entries()[0][0])
    text = section("archives", name)
    if name in ("bigearthnet-v2", "dfc2020"):  # "as in …"
        text += section("archives", {"dfc2020": "sen12ms"}.get(name, "bigearthnet"))
    documented = set(re.findall(r"`([^`]+)`", text))
    ends = [end for end in ("_date", "_scene") if f"<instrument>{end}" in documented]
    documented |= {f"{sensor}{end}" for sensor in ("s2", "s1") for end in ends}
    assert {group.name for group in archive.groups} <= documented
    assert set(archive.nomenclatures) == set(patch.labels) <= documented
    assert set(patch.attributes) <= documented
    assert patch.split is None or f"`{patch.split}`" in text or "images_tr" in text
    for group in archive.groups:
        assert group.dtype in text


def test_every_documented_option_exists():
    assert re.findall(r"^## (.*)$", PAGES["archives"], re.MULTILINE) == list(ARCHIVES)
    for name in ARCHIVES:
        known = {key for part in parameters_of(name) for key in part} | {"group"}
        for title, table in re.findall(
            r"^\| (source|option) \|.*\n\|[-|]*\n((?:\|.*\n)+)", section("archives", name), re.M
        ):
            documented = {each for row in table.splitlines() for each in re.findall(r"`(\w+)`", row.split("|")[1])}
            assert documented <= known, (name, title)
