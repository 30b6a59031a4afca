def test_an_archive_in_a_new_folder_only(tmp_path, command):
    done = command("demo", "--out", tmp_path / "archive", "--pairs", 5, "--workers", 1)
    assert done.returncode == 0
    assert done.stdout.startswith(f"5 simulated pairs in {tmp_path}/archive, ")
    again = command("demo", "--out", tmp_path / "archive", "--pairs", 5)
    assert again.returncode == 2
    assert "exists and is not empty" in again.stderr
    assert "at least 5" in command("demo", "--out", tmp_path / "other", "--pairs", 4).stderr
