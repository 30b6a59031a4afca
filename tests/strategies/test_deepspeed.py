import json
from pathlib import Path

import pytest

from rspretrain.strategies import resolve_strategy
from rspretrain.strategies.base import StrategySettings
from rspretrain.strategies.deepspeed import read_config
from rspretrain.strategies.optim import OptimSettings
from strategies.toys import this_world


def config_file(tmp_path, **content):
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(content))
    return path


def test_no_such_stage(tmp_path):
    with pytest.raises(ValueError, match=r"has ZeRO stage 4, expected one of \(0, 1, 2, 3\). Use zero1"):
        read_config(config_file(tmp_path, zero_optimization={"stage": 4}))


def test_keys_that_the_run_sets(tmp_path):
    with pytest.raises(ValueError, match=r"sets gradient_clipping \(use optim.clip_norm\).*Remove them"):
        read_config(config_file(tmp_path, gradient_clipping=1.0))


def test_unsupported_options_of_stage_3(tmp_path):
    zero = {"stage": 3, "zero_hpz_partition_size": 2}
    with pytest.raises(ValueError, match=r"sets zero_hpz_partition_size with ZeRO stage 3, expected none.*Remove them"):
        read_config(config_file(tmp_path, zero_optimization=zero))
    read_config(config_file(tmp_path, zero_optimization=zero | {"stage": 2}))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"zero9.json', expected a DeepSpeed JSON file or one of zero0, zero1, "):
        read_config(tmp_path / "zero9.json")


def test_lars_is_refused():
    settings = StrategySettings(name="deepspeed")
    with pytest.raises(ValueError, match="got lars with ZeRO stage 1.*Use strategy.deepspeed=zero0"):
        resolve_strategy(settings, this_world(), OptimSettings(name="lars"), deepspeed_launcher=False)


def test_compiling_stage_3_is_refused():
    settings = StrategySettings(name="deepspeed", deepspeed="configs/deepspeed/zero3.json", compile=True)
    with pytest.raises(ValueError, match="got true with ZeRO stage 3, expected false.*Use strategy.name=fsdp"):
        resolve_strategy(settings, this_world(), OptimSettings(), deepspeed_launcher=False)


def test_clipping_per_tensor_is_refused():
    settings, optim = StrategySettings(name="deepspeed"), OptimSettings(clip="per_tensor", clip_norm=3.0)
    with pytest.raises(ValueError, match=r"got per_tensor with ZeRO stage 1.*Use strategy.deepspeed=.*optim.clip=norm"):
        resolve_strategy(settings, this_world(), optim, deepspeed_launcher=False)
    whole = settings.model_copy(update={"deepspeed": Path("configs/deepspeed/zero0.json")})
    assert resolve_strategy(whole, this_world(), optim, deepspeed_launcher=False).name == "deepspeed"
