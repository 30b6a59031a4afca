import pytest
from fakes.memory import memory_shards


@pytest.fixture
def shards(tmp_path):
    return memory_shards(tmp_path / "shards", samples=8).path


def test_numbers_and_pictures(tmp_path, command, shards):
    done = command("inspect", shards, "--png", tmp_path / "sheet.png", "--rows", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert "8 samples" in done.stdout
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"


def test_a_damaged_sample_has_its_own_exit_code(command, shards):
    path = sorted(shards.glob("*.tar"))[0]
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    found = [command("inspect", shards, "--sample", f"patch-{number:05d}") for number in range(8)]
    (damaged,) = [done for done in found if done.returncode]
    assert damaged.returncode == 1
    assert damaged.stderr.startswith("rspretrain inspect: error: ")
