import pytest

from rspretrain import config
from rspretrain.config import ConfigError
from rspretrain.shipped_configs import shipped


@pytest.mark.parametrize(
    ("load", "kind", "name", "message"),
    [
        (
            config.load,
            "finetune",
            "linear",
            "is a fine-tuning configuration, expected a pretraining one. Run it with `rs",
        ),
        (config.load, "active_learning", "ucmerced", "is an active-learning configuration, expected a pretraining one"),
        (config.load_finetune, "pretrain", "mae_aid", "is a pretraining configuration, expected a fine-tuning one"),
        (config.load_finetune, "active_learning", "ucmerced", "is an active-learning configuration, expected a fine-"),
        (config.load_active, "pretrain", "mae_aid", "is a pretraining configuration, expected an active-learning one"),
    ],
)
def test_a_configuration_of_another_command_names_it(load, kind, name, message):
    path = shipped(kind)[name]
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path} {message}")
    assert f"--config {path}`." in str(raised.value)


def test_a_fine_tuning_configuration_may_be_given_to_active_learning():
    settings = config.load_active(shipped("finetune")["ucmerced_multilabel"], ["budget.rounds=2"])
    assert settings.budget.rounds == 2
