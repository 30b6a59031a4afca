from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from rspretrain.config.readable import default_text, nested_model, type_text, unit_text
from rspretrain.settings import AreaRange, Positive, Settings


class Inner(Settings):
    """A section."""

    name: str = "a"


class Example(Settings):
    """Fields of every kind."""

    flag: bool = True
    count: int = Field(3, ge=1)
    rate: float | None = Field(None, gt=0, lt=1)
    share: float = Field(0.5, ge=0, le=1)
    word: Literal["a", "b"] = "a"
    folder: Path = Path("x")
    pair: tuple[Positive, Positive] = (0.04, 0.07)
    area: AreaRange = (0.2, 1.0)
    words: tuple[str, ...] | None = Field(None, min_length=1)
    pairs: tuple[tuple[str, str], ...] = ()
    table: dict[str, tuple[float, float]] = Field(default_factory=dict)
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    needed: int


@pytest.mark.parametrize(
    ("name", "kind", "default"),
    [
        ("flag", "true or false", "`true`"),
        ("count", "whole number >= 1", "`3`"),
        ("rate", "number > 0 and < 1 or null", "`null`"),
        ("share", "number from 0 to 1", "`0.5`"),
        ("word", "one of a, b", "`a`"),
        ("folder", "path", "`x`"),
        ("pair", "pair of numbers > 0", "`[0.04, 0.07]`"),
        ("area", "pair of numbers > 0 and <= 1", "`[0.2, 1]`"),
        ("words", "non-empty list of text or null", "`null`"),
        ("pairs", "list of pairs of text", "`[]`"),
        ("table", "section: name -> pair of numbers", "`{}`"),
        ("inner", "section", "`a`"),
        ("inners", "list of sections", "`[]`"),
        ("needed", "whole number", "*required*"),
    ],
)
def test_types_and_defaults_in_words(name, kind, default):
    field = Example.model_fields[name]
    assert (type_text(field), default_text(field)) == (kind, default)


def test_sections_in_fields_lists_and_dictionaries():
    assert nested_model(Inner) == ("", Inner)
    assert nested_model(tuple[Inner, ...]) == nested_model(dict[str, Inner]) == (".*", Inner)
    assert nested_model(tuple[str, ...]) == ("", None)


@pytest.mark.parametrize(
    ("meaning", "unit"),
    [
        ("Side in pixels.", "pixels"),
        ("Number of images to label.", "images"),
        ("Label in images of ships", "images"),
        ("In all.", ""),
    ],
)
def test_units(meaning, unit):
    assert unit_text(meaning) == unit
