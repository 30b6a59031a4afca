"""The command that a configuration is for, from its sections."""

from pathlib import Path

from rspretrain.config.errors import ConfigError, Tree

_SECTIONS = {  # command -> sections that only its configurations have, in the order of the check
    "pretrain": {"objective"},
    "active-learning": {"budget", "query", "oracle", "warm_start"},
    "finetune": {"labels", "network", "classifier", "tune", "validation", "views"},
}
_NAMES = {"pretrain": "a pretraining", "active-learning": "an active-learning", "finetune": "a fine-tuning"}


def check_kind(tree: Tree, command: str, path: Path) -> None:
    """ConfigError if the sections of a file are those of another command.

    A fine-tuning configuration is also valid for active learning, with the default budget.
    """
    found = next((kind for kind, sections in _SECTIONS.items() if sections & tree.keys()), command)
    if found != command and (found, command) != ("finetune", "active-learning"):
        raise ConfigError(
            f"{path} is {_NAMES[found]} configuration, expected {_NAMES[command]} one. "
            f"Run it with `rspretrain {found} --config {path}`."
        )
