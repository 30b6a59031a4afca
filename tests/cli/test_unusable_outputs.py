"""Every command that writes rejects an unusable output path in one sentence, before it opens anything."""

import pytest

FOLDERS = {
    "build": ("folder", "--source", "nowhere", "--out"),
    "merge": ("nowhere", "--out"),
    "demo": ("--out",),
    "export": ("--run", "nowhere", "--out"),
}
FILES = {
    "probe": ("--backbone", "nowhere", "--shards", "nowhere", "--json"),
    "linear-eval": ("--backbone", "nowhere", "--shards", "nowhere", "--json"),
    "predict": ("--classifier", "nowhere", "--shards", "nowhere", "--out"),
    "curves": ("nowhere", "--png"),
    "configs": ("copy", "linear"),
}
RUNS = {
    "pretrain": "simclr_ucmerced",
    "finetune": "linear",
    "active-learning": "ucmerced_small",
    "label-fractions": "linear",
}


@pytest.fixture
def refused(tmp_path, command):
    """Run a command; returns its one sentence of error, and checks that nothing has changed."""
    (tmp_path / "file").write_text("")

    def run(name, *arguments):
        done = command(name, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith(f"rspretrain {name}: error: ")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        return done.stderr

    return run


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(refused, tmp_path, name):
    for path, reason in ((tmp_path / "file", ""), (tmp_path / "file/a", ""), ("/proc/a", "No such file or directory")):
        error = refused(name, *FOLDERS[name], path)
        assert f"--out: {path} cannot be used as a folder ({reason or f'{tmp_path}/file is a file'}). Choose" in error


@pytest.mark.parametrize("name", FILES)
def test_files(refused, tmp_path, name):
    error = refused(name, *FILES[name], tmp_path / "file/a.csv")
    assert f": {tmp_path}/file/a.csv cannot be written ({tmp_path}/file is a file). Choose another " in error


@pytest.mark.parametrize("name", ["probe", "linear-eval", "curves"])
def test_a_folder_instead_of_a_file(refused, tmp_path, name):
    error = refused(name, *FILES[name], tmp_path)
    assert f": {tmp_path} cannot be written (it is a folder). Choose another " in error


@pytest.mark.parametrize("name", RUNS)
def test_run_folders(refused, tmp_path, name):
    for path in (tmp_path / "file", tmp_path / "file/runs/a"):
        error = refused(name, "--config", RUNS[name], "data.shards=nowhere", f"run.dir={path}")
        assert (
            f"run.dir: {path} cannot be used as a folder ({tmp_path}/file is a file). Choose another run.dir." in error
        )


def test_a_run_folder_in_use(command, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    done = command("pretrain", "--config", "simclr_ucmerced", "data.shards=nowhere", f"run.dir={tmp_path}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"run.dir: {tmp_path} is not empty, expected a new folder." in done.stderr
