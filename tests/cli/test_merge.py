from fakes.scenes import write_folder


def test_parts_join_to_the_bytes_of_one_build(tmp_path, command):
    root = write_folder(tmp_path / "pictures", per_class=10)
    build = ("build", "folder", "--source", root, "--samples-per-shard", 4)
    for part in ("1/2", "2/2"):
        built = command(*build, "--out", tmp_path / f"part{part[0]}", "--part", part)
        assert built.returncode == 0, built.stderr
        assert f"This is part {part[0]} of 2: join all of them with `rspretrain merge" in built.stdout
    joined = command("merge", tmp_path / "part1", tmp_path / "part2", "--out", tmp_path / "joined")
    assert joined.returncode == 0, joined.stderr
    assert "20 of 20 patches in 5 shards" in joined.stdout
    alone = command(*build, "--out", tmp_path / "alone", "--workers", 2)
    assert alone.returncode == 0
    for path in (tmp_path / "alone").iterdir():
        assert (tmp_path / "joined" / path.name).read_bytes() == path.read_bytes()
    assert command("merge", tmp_path / "part1", "--out", tmp_path / "half").returncode == 2
    assert command(*build, "--out", tmp_path / "bad", "--part", "3/2").returncode == 2
    again = command(*build, "--out", tmp_path / "alone")
    assert again.stdout == alone.stdout
