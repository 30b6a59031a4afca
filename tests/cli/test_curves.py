def test_folders_that_are_no_run(tmp_path, command):
    done = command("curves", tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "has no active.json that can be read" in done.stderr
    assert "Name folders that `rspretrain active-learning` wrote." in done.stderr
