"""docs/strategies.md has a row for every strategy, setting and DeepSpeed file."""

import re

from docs.pages import ROOT, section
from rspretrain.strategies import STRATEGIES
from rspretrain.strategies.base import StrategySettings


def test_every_setting_of_the_strategy_is_explained():
    text = section("strategies", "Settings")
    assert [name for name in StrategySettings.model_fields if f"\n| `{name}` | " not in text] == []


def test_every_strategy_and_deepspeed_file_has_its_row():
    text = section("strategies", "Memory of each strategy")
    names = [*STRATEGIES, *(path.name for path in (ROOT / "configs/deepspeed").iterdir())]
    assert [name for name in names if not re.search(rf"^\| .*\b{re.escape(name)}\b", text, re.MULTILINE)] == []
