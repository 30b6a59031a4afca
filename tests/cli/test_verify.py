from fakes.scenes import write_folder


def test_verify_reports_damage_by_its_exit_code(tmp_path, command):
    command("build", "folder", "--source", write_folder(tmp_path / "pictures"), "--out", tmp_path / "out")
    whole = command("verify", tmp_path / "out")
    assert (whole.returncode, "all bytes match their checksums" in whole.stdout) == (0, True)
    shard = next((tmp_path / "out").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    damaged = command("verify", tmp_path / "out")
    assert damaged.returncode == 1
    assert f"damaged: {shard.name}:" in damaged.stdout
    assert command("verify", tmp_path).returncode == 2
