"""Lists of splits and tables of multi-labels."""

import re

import pytest
from fakes.scenes import write_splits

from rspretrain.archives.tables import read_multilabels, read_splits


def test_splits_by_stem(tmp_path):
    write_splits(tmp_path, "a", train=["x_1.jpg", "Class/x_2.tif", "", " x_3.jpg "], val=["x_4"], test=["x_5.jpg"])
    expected = {"x_1": "train", "x_2": "train", "x_3": "train", "x_4": "val", "x_5": "test"}
    assert read_splits(tmp_path, "a") == expected


def test_splits_from_windows(tmp_path):
    """A byte order mark is not part of the first name, nor are backslashes of any name."""
    for split, line in (("train", "A\\x_1.jpg"), ("test", "A\\x_2.jpg")):
        (tmp_path / f"a-{split}.txt").write_bytes(f"\ufeff{line}\r\n".encode())
    assert read_splits(tmp_path, "a") == {"x_1": "train", "x_2": "test"}
    (tmp_path / "a-val.txt").write_bytes(b"\xe9.jpg")
    with pytest.raises(ValueError, match=r"a-val\.txt: .*0xe9.*, expected UTF-8 text\. Save it as UTF-8"):
        read_splits(tmp_path, "a")


def test_duplicates_in_one_split_are_ignored(tmp_path):
    assert read_splits(write_splits(tmp_path, "a", train=["x.jpg", "x.jpg"], test=["y"]), "a")["x"] == "train"


def test_a_file_in_two_splits(tmp_path):
    write_splits(tmp_path, "a", train=["x.jpg"], val=["y.jpg"], test=["x.tif"])
    with pytest.raises(ValueError, match=r"a-test.txt: x is in train too, expected disjoint splits. Repair the lists"):
        read_splits(tmp_path, "a")


def test_missing_lists(tmp_path):
    with pytest.raises(ValueError, match=r"none is not a folder, expected one with a-train.txt. Give --source splits="):
        read_splits(tmp_path / "none", "a")
    write_splits(tmp_path, "a", train=["x.jpg"])
    text = (
        "holds the lists ['a-train.txt'], expected a-train.txt and a-test.txt (a-val.txt if there is one). Rename "
        "them, or give another --source splits=FOLDER."
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        read_splits(tmp_path, "a")


@pytest.mark.parametrize("text", ["I\tb_a\tc\nx\t1\t0\ny\t1\t1\n", "I,c,B-A\r\n\r\nx.jpg,0,1\r\ny.jpg,1,1\r\n"])
def test_multilabels_in_the_order_of_the_names(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    assert read_multilabels(tmp_path / "t.txt", ("c", "b-a")) == {"x": ("b-a",), "y": ("c", "b-a")}


def test_invalid_multilabels(tmp_path):
    path = tmp_path / "t.txt"
    for text, message in (
        ("", "has the columns [], expected ['a', 'b']. Restore the file."),
        ("I\ta\nx\t1", "has the columns ['a'], expected ['a', 'b']. Restore the file."),
        ("I\ta\tb\nx\t1", "row 'x': ['1'], expected 2 zeros or ones. Restore the file."),
        ("I\ta\tb\nx\t1\t2", "row 'x': ['1', '2'], expected 2 zeros or ones. Restore the file."),
        ("I\ta\tb\nx\t1\t1\nx\t1\t0", "has two rows 'x' that differ, expected one. Restore the file."),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            read_multilabels(path, ("a", "b"))
