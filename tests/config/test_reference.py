import re
from pathlib import Path

import pytest

from rspretrain.config import ActiveSettings, ConfigError, FinetuneSettings, RunSettings
from rspretrain.config.reference import entries, explain, page

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
KINDS = (RunSettings, FinetuneSettings, ActiveSettings)


def test_the_page_is_fresh():
    assert PAGE.read_text() == page(), "run: python -m rspretrain.config.reference > docs/configuration.md"


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_has_a_meaning_and_a_readable_type(kind):
    for one in entries(kind):
        assert re.fullmatch(r"[A-Za-z0-9].*\.", one.meaning), one
        assert not re.search(r"Literal|tuple|Optional|\||typing|class", one.type), one


@pytest.mark.parametrize("kind", KINDS)
def test_names_with_a_unit_agree_with_the_unit_column(kind):
    units = {
        "_px": "pixels",
        "_gb": "GB",
        "_s": "seconds",
        "_minutes": "minutes",
        "_epochs": "epochs",
        "steps": "steps",
    }
    for one in entries(kind):
        for end, unit in units.items():
            if one.key.endswith(end):
                assert one.unit == unit, one


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_every_key(kind):
    text = PAGE.read_text()
    for one in entries(kind):
        shared = "*." + one.key.split(".")[-1]  # sections that several objectives have, once
        assert f"`{one.key}`" in text or f"`{shared}`" in text or f"### {one.key}\n" in text, one.key


def test_explain_a_key():
    assert explain("optim.lr", RunSettings) == (
        "optim.lr\n    number > 0; default 0.0005\n    Peak learning rate at a global batch of lr_reference_batch "
        "samples; scaled linearly to other batch sizes."
    )


def test_explain_a_section_with_names_of_the_user():
    text = explain("sensors.s2", RunSettings)
    assert "sensors.s2.bands\n    non-empty list of text; required\n" in text
    assert explain("sensors.s2.normalise", RunSettings) in text


def test_explain_names_the_objectives_that_have_a_key():
    text = explain("objective.momentum", RunSettings)
    assert "objective.momentum  (byol, dino, gsc_mim)\n    number from 0 to 1; default 0.996" in text
    assert "objective.momentum  (moco_v3)\n    number from 0 to 1; default 0.99" in text
    assert "one of byol, dino, dual_simclr" in explain("objective.name", RunSettings)


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("optim.lrr", "Did you mean 'optim.lr'"),
        ("bands", r"Did you mean 'sensors\.\*\.bands'"),
        ("nothing_like_it", "The sections are run, data, strategy, optim, train"),
    ],
)
def test_explain_an_unknown_key(key, remedy):
    with pytest.raises(ConfigError, match=f"--explain: unknown key '{key}'. {remedy}"):
        explain(key, RunSettings)
