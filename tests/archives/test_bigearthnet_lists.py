"""The CSV files of BigEarthNet v1: counts of the real ones, and a random split that depends on the set and the seed."""

import bz2
from collections import Counter
from pathlib import Path

import pytest

from rspretrain.archives.bigearthnet_lists import FLAG_FILES, SPLITS, random_splits, read_lists

REAL = Path(__file__).parents[2].parent / "shared/data/bigearthnet-v1-metadata"
NAMES = [f"S2A_MSIL2A_20170613T101031_{h}_{v}" for h in range(40) for v in range(10)]


def write(folder, **texts):
    for split in SPLITS:
        (folder / f"{split}.csv").write_text(texts.pop(split, ""))
    for stem, text in texts.items():
        (folder / f"{stem}.csv.bz2").write_bytes(bz2.compress(text.encode()))


def test_rows_of_either_sensor_first_with_and_without_a_header(tmp_path):
    write(tmp_path, train="s2_name,s1_name\nS2A_1,S1A_1\nS2A_2\n", test="S1A_3,S2A_3\n", s1_s2_mapping="S1A_2,S2A_2\n")
    lists = read_lists(tmp_path)
    assert lists.split_of == {"S2A_1": "train", "S2A_2": "train", "S2A_3": "test"}
    assert lists.partner_of == {"S1A_1": "S2A_1", "S1A_2": "S2A_2", "S1A_3": "S2A_3"}
    assert read_lists(tmp_path, partners=False).partner_of == {}


@pytest.mark.parametrize("text", ["\ufeffS2A_1,S1A_1\r\nS2A_2,S1A_2\r\n", '"S2A_1", "S1A_1"\n\n0, S1A_2 ,S2A_2'])
def test_rows_of_other_writers(tmp_path, text):
    """A byte order mark does not turn the first row into a header; no row is silently lost."""
    write(tmp_path, train=text)
    lists = read_lists(tmp_path)
    assert lists.split_of == {"S2A_1": "train", "S2A_2": "train"}
    assert lists.partner_of == {"S1A_1": "S2A_1", "S1A_2": "S2A_2"}


def test_damaged_lists(tmp_path):
    write(tmp_path, patches_with_seasonal_snow="S2A_1\n")
    path = tmp_path / "patches_with_seasonal_snow.csv.bz2"
    for content in (path.read_bytes()[:-3], b"S2A_1\n", bz2.compress(b"\xe9")):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"snow\.csv\.bz2: cannot be read \(.*\), expected CSV or bzip2\. Download"
        ):
            read_lists(tmp_path)
    write(tmp_path, train="S1A_1\n")
    with pytest.raises(ValueError, match=r"train\.csv, line 1: 'S1A_1', expected s2_name,s1_name\. Repair the file"):
        read_lists(tmp_path)


def test_flags_are_known_if_their_list_exists(tmp_path):
    write(tmp_path, patches_with_seasonal_snow="S2A_1\n")
    lists = read_lists(tmp_path)
    assert [lists.flag("snow", name) for name in ("S2A_1", "S2A_2", None)] == [True, False, None]
    assert lists.flag("cloud", "S2A_1") is None
    assert read_lists(None).flag("snow", "S2A_1") is None


def test_unneeded_split_files_may_be_missing(tmp_path):
    assert read_lists(tmp_path, splits=False).split_of == {}
    with pytest.raises(ValueError, match=r"holds no train\.csv \(or \.csv\.bz2\), expected a file for each of"):
        read_lists(tmp_path)


def test_random_counts_are_exact():
    for count in (0, 1, 4, 5, 7, 400):
        found = Counter(random_splits(NAMES[:count], seed=0).values())
        train, until_val = 3 * count // 5, 4 * count // 5
        assert [found[split] for split in SPLITS] == [train, until_val - train, count - until_val]


def test_a_random_split_is_a_function_of_the_set_and_the_seed():
    split = random_splits(NAMES, seed=3)
    assert random_splits(reversed(NAMES), seed=3) == split
    agreeing = sum(split[name] == other for name, other in random_splits(NAMES, seed=4).items())
    assert 0.36 < agreeing / len(NAMES) < 0.52  # 0.6² + 0.2² + 0.2² = 0.44 for independent splits


def test_a_random_split_never_changes():
    """Existing shard sets contain these splits."""
    splits = random_splits(NAMES[:10], seed=0)
    assert {name[-1] for name, split in splits.items() if split == "test"} == {"5", "7"}
    assert {name[-1] for name, split in random_splits(NAMES[:10], seed=-1).items() if split == "test"} == {"1", "7"}


@pytest.mark.skipif(not REAL.is_dir(), reason="the official lists of ../shared/data are not here")
def test_the_official_counts():
    """docs/methods.md, BigEarthNet v1."""
    lists = read_lists(REAL)
    everything = set(lists.partner_of.values())
    snow, cloud = lists.flagged["snow"], lists.flagged["cloud"]
    assert (len(lists.partner_of), len(everything)) == (590_326, 590_326)
    assert (len(snow), len(cloud), len(snow & cloud)) == (61_707, 9_280, 0)
    left = everything - snow - cloud
    assert (len(left), len(left - lists.split_of.keys())) == (519_339, 55)
    assert Counter(lists.split_of.values()) == {"train": 269_695, "val": 123_723, "test": 125_866}
    assert lists.split_of.keys() <= left
    assert Counter(random_splits(left, seed=0).values()) == {"train": 311_603, "val": 103_868, "test": 103_868}
    assert set(FLAG_FILES) == set(lists.flagged)
