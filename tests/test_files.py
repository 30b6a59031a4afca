import json
import math

import pytest

from rspretrain.files import (
    atomic,
    atomic_folder,
    decode_json,
    encode_json,
    read_json,
    replace_nonfinite,
    sync,
    write_atomically,
    write_json,
)

DIVERGED = {"step": 3, "last": {"train/loss": math.nan, "lr": 0.1}, "validation": [{"ap": 0.5}, {"ap": -math.inf}]}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    write_atomically(tmp_path / "a", b"old")
    with pytest.raises(KeyError), atomic(tmp_path / "a") as file:
        file.write(b"half of the n")
        raise KeyError
    assert (tmp_path / "a").read_bytes() == b"old"
    with atomic(tmp_path / "a", temporary=tmp_path / "elsewhere.tmp") as file:
        file.write(b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"new")]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "runs/a") as folder:
        (folder / "first").write_text("old")
        assert not (tmp_path / "runs/a").exists()
    with pytest.raises(KeyError), atomic_folder(tmp_path / "runs/a") as folder:
        (folder / "second").write_text("half of the n")
        raise KeyError
    assert (names(tmp_path / "runs"), names(tmp_path / "runs/a")) == (["a"], ["first"])


def test_a_folder_replaces_older_ones_and_leftovers(tmp_path):
    for name in (".a.tmp", ".a.old", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "left").write_text("old")
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "right").write_text("new")
    assert (names(tmp_path), names(tmp_path / "a")) == (["a"], ["right"])


def test_json_creates_its_folder_and_has_no_nan(tmp_path):
    path = tmp_path / "a/b/found.json"
    write_json(path, DIVERGED)
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["last"] == {"train/loss": None, "lr": 0.1}
    assert content["nonfinite"] == {"last.train/loss": "nan", "validation.1.ap": "-inf"}
    assert names(path.parent) == ["found.json"]


def test_nan_and_infinity_are_restored(tmp_path):
    write_json(tmp_path / "a.json", DIVERGED)
    assert repr(read_json(tmp_path / "a.json")) == repr(DIVERGED)
    finite = {"top1": 1 / 3, "none": None, "of": {"a": [1, "b"]}}
    assert decode_json(encode_json(finite)) == finite
    assert "nonfinite" not in encode_json(finite)


def test_tuples_become_lists_and_indent_is_optional():
    assert replace_nonfinite({"a": (1, math.inf)}) == {"a": [1, None], "nonfinite": {"a.1": "inf"}}
    assert encode_json({"a": (1, 2)}) == '{"a": [1, 2]}'
    assert encode_json({"a": 1}, indent=1) == '{\n "a": 1\n}'


def test_sync_takes_files_and_folders(tmp_path):
    (tmp_path / "a").write_text("a")
    sync(tmp_path / "a")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "b")
