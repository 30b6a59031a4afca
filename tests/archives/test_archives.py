import re
from pathlib import Path
from typing import final

import pytest
from fakes.memory import MemoryArchive

from rspretrain import archives
from rspretrain.archives import open_archive, usages


@final
class Fussy(MemoryArchive):
    """An archive with a required source, an optional one, and options of every type."""

    def __init__(
        self, root: Path, extra: Path | None = None, window: int = 64, share: float = 0.5, bands: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.got = (root, extra, window, share, bands)


FUSSY = f"{__name__}:Fussy"


def test_sources_and_options_reach_the_constructor():
    archive = open_archive(FUSSY, ["/a", "extra=/b=c"], ["window=32", "bands=B02,B03"])
    assert archive.got == (Path("/a"), Path("/b=c"), 32, 0.5, ("B02", "B03"))
    assert archive.options == {"bands": "B02,B03", "window": "32"}
    assert open_archive(FUSSY, ["ROOT=/a/b=c"]).got[0] == Path("/a/b=c")
    assert open_archive(FUSSY, ["/a/b=c"]).got[0] == Path("/a/b=c")


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (
            ["extra=/a"],
            [],
            "got no source 'root', expected --source root=PATH [extra=PATH]. Add root=PATH; see docs/archives.md.",
        ),
        (["/a", "/b"], [], "the source 'root' twice, expected it once: --source root=PATH [extra=PATH]. Drop one."),
        (["root"], [], "Fussy got the source 'root' without a value, expected root=<value>. Add it."),
        (
            ["rot=/a"],
            [],
            "has no source 'rot=/a'; expected --source root=PATH [extra=PATH]. Did you mean 'root'?",
        ),
        (["/a"], ["windw=3"], "'windw=3'; expected --option window=64 share=0.5 bands=…. Did you mean 'window'?"),
        (["/a"], ["x"], "'x'; expected --option window=64 share=0.5 bands=…. See docs/archives.md."),
        (["/a"], ["share"], "Fussy got the option 'share' without a value, expected share=<value>. Add it."),
        (
            ["/a"],
            ["window=3.5"],
            "the option window='3.5', expected a whole number (default 64). Correct it; see docs/archives.md.",
        ),
    ],
)
def test_invalid_input(sources, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_archive(FUSSY, sources, options)


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("bigearthnet", "exclude=fog", "expected snow or cloud (several separated by commas) (default none)"),
        ("bigearthnet", "split=mine", "expected official or official-only or random (default official)"),
        ("sen12ms", "labels=maybe", "expected true or false (default false)"),
        ("geotiff", "fill=black", "expected a number (default none)"),
        ("geotiff", "cloud_values=a", "expected a whole number (several separated by commas) (default none)"),
        ("eurosat", "bands=all", "expected ms or rgb (default none)"),
    ],
)
def test_values_are_explained_in_words(name, option, expected, tmp_path):
    source = {"bigearthnet": "s2=x", "geotiff": "s2=x"}.get(name, "x")
    with pytest.raises(ValueError, match=re.escape(expected)):
        open_archive(name, [source], [option])


def test_the_help_shows_every_archive_with_its_defaults():
    text = usages()
    assert all(f"\n  {name} " in f"\n{text}" for name in archives.ARCHIVES)
    assert "bigearthnet-v2  --source metadata=PATH [s2=PATH] [s1=PATH] [maps=PATH]\n" in text
    assert "--option sensors=s1,s2 labels=false maps=false\n" in text
    assert max(map(len, text.splitlines())) <= 112


def test_an_option_may_be_empty():
    assert open_archive(FUSSY, ["/a"], ["bands="]).got[-1] == ()


def test_unknown_archive():
    with pytest.raises(ValueError, match=r"^Unknown archive 'bigearth', expected one of bigearthnet, .*'bigearthnet'"):
        open_archive("bigearth", [])
