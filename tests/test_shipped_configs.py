from pathlib import Path

import pytest

from rspretrain import config
from rspretrain.shipped_configs import KINDS, find_config, find_deepspeed, shipped, summary


@pytest.mark.parametrize("kind", KINDS)
def test_configurations_are_found_by_name_and_as_files_everywhere(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, path in shipped(kind).items():
        assert find_config(Path(name), kind) == find_config(Path(f"{name}.yaml"), kind) == path
        assert summary(path)[0] not in "# "
        assert summary(path)[-1] in ".)"
    (tmp_path / "linear").write_text("")
    assert find_config(Path("linear"), "finetune") == Path("linear")  # a file with that name has precedence
    assert find_config(Path("somewhere/linear"), "finetune") == Path("somewhere/linear")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "linear",
            "linear is a configuration of `rspretrain finetune`, not of `rspretrain pretrain`. Use `rspretrain fi",
        ),
        ("dual_simclr_bigearth", "is neither a file nor a shipped configuration. Did you mean dual_simclr_bigearthnet"),
        ("moon.yaml", "moon.yaml is neither a file nor a shipped configuration. `rspretrain configs` lists them."),
    ],
)
def test_names_that_are_not_found(name, message):
    with pytest.raises(ValueError, match="--config: ") as raised:
        find_config(Path(name), "pretrain")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "given", ["zero2", "zero2.json", "configs/deepspeed/zero2.json"]
)  # the last one is from older runs
def test_deepspeed_files_are_found_from_everywhere(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert '"stage": 2' in find_deepspeed(Path(given)).read_text()
    (tmp_path / "zero2").write_text("mine")
    assert find_deepspeed(Path("zero2")) == Path("zero2")


def test_unknown_deepspeed_files():
    with pytest.raises(
        ValueError, match="got 'zero7', expected a DeepSpeed JSON file or one of zero0, zero1, zero2, ze"
    ):
        find_deepspeed(Path("zero7"))


def test_an_older_run_resumes(tmp_path, monkeypatch):
    """Its saved configuration has the path of a DeepSpeed file in the repository."""
    monkeypatch.chdir(tmp_path)
    settings = config.load(shipped("pretrain")["simclr_ucmerced"])
    saved = tmp_path / "config.yaml"
    saved.write_text(config.dump(settings).replace("deepspeed: zero0", "deepspeed: configs/deepspeed/zero0.json"))
    assert "configs/deepspeed/zero0.json" in saved.read_text()
    config.check_same(saved, settings)
    assert find_deepspeed(config.load(saved).strategy.deepspeed) == find_deepspeed(settings.strategy.deepspeed)
