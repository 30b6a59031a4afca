"""The whole configuration of a run: YAML, dotted overrides from the command line, checked and compared on resume."""

from rspretrain.config.errors import ConfigError, known_keys
from rspretrain.config.loading import (
    BINDING,
    FREE,
    check_same,
    dump,
    load,
    load_active,
    load_finetune,
    parse,
    parse_as,
    saved_value,
)
from rspretrain.config.settings_tree import (
    ActiveSettings,
    CommonSettings,
    FinetuneSettings,
    RunSection,
    RunSettings,
    TrainSection,
)

__all__ = [
    "BINDING",
    "FREE",
    "ActiveSettings",
    "CommonSettings",
    "ConfigError",
    "FinetuneSettings",
    "RunSection",
    "RunSettings",
    "TrainSection",
    "check_same",
    "dump",
    "known_keys",
    "load",
    "load_active",
    "load_finetune",
    "parse",
    "parse_as",
    "saved_value",
]
