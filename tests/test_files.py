import json

import pytest

from rspretrain.files import atomic, write_atomically, write_json


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


def test_json_makes_its_folder_and_refuses_what_is_no_json(tmp_path):
    path = tmp_path / "a/b/found.json"
    write_json(path, {"top1": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"top1": float("nan")})
    assert json.loads(path.read_text()) == {"top1": 0.5}
    assert [one.name for one in path.parent.iterdir()] == ["found.json"]
