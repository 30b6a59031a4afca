def test_other_folders_are_refused(tmp_path, command):
    done = command("curves", tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "has no readable active.json" in done.stderr
    assert "Name folders that `rspretrain active-learning` wrote." in done.stderr
