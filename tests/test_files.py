import pytest

from rspretrain.files import atomic, write_atomically


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
