"""Names and import paths give classes; errors name the part that does not load."""

import sys
import textwrap
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from rspretrain.registry import NamedSettings, Registry, SettingsByName
from rspretrain.settings import Settings


class PartSettings(NamedSettings):
    """Settings of every part."""


class Part:
    """The base of this kind."""

    Settings = PartSettings


class OneSettings(PartSettings):
    """Settings of One."""

    name: str = "one"
    width: int = Field(default=3, gt=0)


class One(Part):
    """A part."""

    Settings = OneSettings


class Two(Part):
    """A part without own settings."""


PARTS = Registry("part", Part, {"one": f"{__name__}:One", "two": f"{__name__}:Two"})
SECTION = TypeAdapter(Annotated[PartSettings, SettingsByName(PARTS, default="one", undecided="auto")])

MODULES = {
    "mine.py": """
        from abc import abstractmethod
        from test_registry import OneSettings, Part
        from rspretrain.settings import Settings as Plain
        class WideSettings(OneSettings):
            name: str = "wide"
            depth: int = 1
        class Wide(Part):
            Settings = WideSettings
        class Abstract(Part):
            __abstractmethods__ = frozenset({"run"})
        class Wrong(Part):
            Settings = Plain
        class Stranger: ...
        number = 3
    """,
    "needs.py": "import a_package_that_is_not_there",
    "broken.py": "raise KeyError('no such band')",
    "__init__.py": "",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A third-party package: own.mine, own.needs, own.broken."""
    (tmp_path / "own").mkdir()
    for name, text in MODULES.items():
        (tmp_path / "own" / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name == "own" or name.startswith("own.")]:
        del sys.modules[name]


def test_a_name_and_an_import_path_give_the_class(own) -> None:
    assert (PARTS.find("one"), PARTS.find(f"{__name__}:One")) == (One, One)
    assert PARTS.find("own.mine:Wide").__name__ == "Wide"
    assert (list(PARTS), len(PARTS), "one" in PARTS, "three" in PARTS) == (["one", "two"], 2, True, False)


def test_rows_are_imported_when_they_are_asked_for() -> None:
    parts = Registry("part", Part, {"one": f"{__name__}:One", "lost": "no_such_package:Part"})
    assert parts.find("one") is One
    with pytest.raises(ValueError, match="there is no package 'no_such_package'"):
        parts.find("lost")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tow", r"Unknown part 'tow', expected one of one, two, or an import path such as mypackage.mine:MyPart. Did"),
        ("zebra", r"Unknown part 'zebra', expected one of one, two, or an import path .*\. Use one of these\.$"),
        ("own.mine.Wide:", r"The part 'own.mine.Wide:' is not of the form package.module:Class, as in mypackage"),
        ("own.mine:a:b", r"is not of the form package.module:Class"),
        ("/etc/x.py:Wide", r"is not of the form package.module:Class"),
        ("owm.mine:Wide", r"The part 'owm.mine:Wide': there is no package 'owm'. Install it, or add its folder to PYT"),
        ("own.mind:Wide", r"the package own has no module 'mind'. Correct the name"),
        ("own.needs:Wide", r"importing own.needs failed: No module named 'a_package_that_is_not_there'. Install what"),
        ("own.broken:Wide", r"importing own.broken failed with KeyError: 'no such band'. Correct the module"),
        ("own.mine:Wid", r"the module own.mine has no 'Wid'. Did you mean 'Wide'\?"),
        ("own.needs.x:Wide", r"importing own.needs.x failed: No module named 'a_package_that_is_not_there'"),
        ("own.mine:zebra", r"the module own.mine has no 'zebra'. It has Wide, Abstract, Wrong\.$"),
        ("own:Wide", r"the module own has no 'Wide'. It has no part\.$"),
        ("own.mine:Stranger", r"is a class, expected a subclass of test_registry.Part"),
        ("own.mine:number", r"is of type int, expected a subclass of test_registry.Part"),
        ("own.mine:Abstract", r"is abstract, expected a class that defines run. Define them"),
        ("own.mine:Wrong", r"has Settings = .*Settings'>, expected a subclass of test_registry.PartSettings"),
    ],
)
def test_errors_name_the_part_that_does_not_load(own, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PARTS.find(name)


def test_the_name_chooses_the_model_and_is_kept(own) -> None:
    assert SECTION.validate_python({"width": 4}) == OneSettings(width=4)
    assert SECTION.validate_python({"name": "two"}) == PartSettings(name="two")
    assert type(SECTION.validate_python({"name": "auto"})) is PartSettings
    wide = SECTION.validate_python({"name": "own.mine:Wide", "depth": 2})
    assert wide.model_dump() == {"name": "own.mine:Wide", "width": 3, "depth": 2}
    assert SECTION.validate_python(wide) is wide
    assert SECTION.validate_python(SECTION.dump_python(wide, mode="json")) == wide


class Tree(Settings):
    """A configuration with a section that its name chooses."""

    part: Annotated[PartSettings, SettingsByName(PARTS)]


def test_errors_name_keys_of_the_configuration() -> None:
    with pytest.raises(ValidationError) as caught:
        Tree.model_validate({"part": {"name": "one", "width": 0, "wdth": 1}, "other": 1})
    assert [error["loc"] for error in caught.value.errors()] == [("part", "width"), ("part", "wdth"), ("other",)]
    with pytest.raises(ValidationError, match=r"Unknown part 'twoo'") as caught:
        Tree.model_validate({"part": {"name": "twoo"}})
    assert caught.value.errors()[0]["loc"] == ("part", "name")


@pytest.mark.parametrize(
    ("section", "message"),
    [({}, "part.name is missing. Set it to one of one, two, or"), ("one", "a section")],
)
def test_a_section_has_a_name(section: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tree.model_validate({"part": section})


def test_a_dump_has_all_settings_of_the_part() -> None:
    tree = Tree.model_validate({"part": {"name": "one", "width": 5}})
    assert tree.model_dump(mode="json") == {"part": {"name": "one", "width": 5}}
