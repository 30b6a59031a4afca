import pytest

from rspretrain.shipped_configs import KINDS, deepspeed_files, shipped


def test_every_configuration_is_listed_with_a_line(command):
    lines = command("configs").stdout.splitlines()
    for kind in KINDS:
        for name in shipped(kind):
            (line,) = [line for line in lines if line.startswith(f"  {name} ")]
            assert len(line.split()) > 4
    assert lines[-1].split() == ["zero0,", "zero1,", "zero2,", "zero3"]
    assert max(map(len, lines)) <= 140


def test_a_copy_never_overwrites(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("configs", "copy", "linear").stdout == "linear.yaml\n"
    assert (tmp_path / "linear.yaml").read_bytes() == shipped("finetune")["linear"].read_bytes()
    (tmp_path / "linear.yaml").write_text("mine")
    again = command("configs", "copy", "linear")
    assert (again.returncode, "linear.yaml exists, expected a new file" in again.stderr) == (2, True)
    assert (tmp_path / "linear.yaml").read_text() == "mine"
    assert command("configs", "copy", "zero2", "new/mine.json").returncode == 0
    assert (tmp_path / "new/mine.json").read_bytes() == deepspeed_files()["zero2"].read_bytes()


@pytest.mark.parametrize(("name", "nearest"), [("liner", "Did you mean linear?"), ("moon", "`rspretrain configs`")])
def test_unknown_names(command, name, nearest):
    done = command("configs", "copy", name)
    assert done.returncode == 2
    assert f"{name} is not a shipped configuration." in done.stderr
    assert nearest in done.stderr
