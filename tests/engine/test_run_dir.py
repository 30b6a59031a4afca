import json

from rspretrain.engine.run_dir import Ledger


def test_ledger_removes_repeated_steps_and_incomplete_lines(tmp_path):
    path = tmp_path / "ledger.jsonl"
    lines = [json.dumps({"step": step, "keys": ["a", "b"]}) for step in range(1, 6)]
    path.write_text("\n".join(lines) + "\n" + '{"step": 6, "ke')
    ledger = Ledger(path, resume_step=3)
    ledger.write(4, ["c"])
    ledger.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]
    assert json.loads(path.read_text().splitlines()[-1])["keys"] == ["c"]


def test_an_incomplete_line_is_removed(tmp_path):
    (tmp_path / "ledger.jsonl").write_text('{"step": 1, "keys": []}\n{"step": 2, "ke')
    Ledger(tmp_path / "ledger.jsonl", resume_step=9).close()
    assert (tmp_path / "ledger.jsonl").read_text() == '{"step": 1, "keys": []}\n'
