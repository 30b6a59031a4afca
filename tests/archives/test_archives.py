from pathlib import Path
from typing import final

import pytest
from fakes.memory import MemoryArchive

from rspretrain import archives
from rspretrain.archives import open_archive


@final
class Fussy(MemoryArchive):
    """An archive with a source that it needs, one that it may have, and options of every type."""

    def __init__(
        self, root: Path, extra: Path | None = None, window: int = 64, share: float = 0.5, bands: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.got = (root, extra, window, share, bands)


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setitem(archives.ARCHIVES, "fussy", Fussy)


def test_sources_and_options_reach_the_constructor():
    archive = open_archive("fussy", ["/a", "extra=/b=c"], ["window=32", "bands=B02,B03"])
    assert archive.got == (Path("/a"), Path("/b=c"), 32, 0.5, ("B02", "B03"))
    assert archive.options == {"bands": "B02,B03", "window": "32"}
    assert open_archive("fussy", ["ROOT=/a/b=c"]).got[0] == Path("/a/b=c")
    assert open_archive("fussy", ["/a/b=c"]).got[0] == Path("/a/b=c")


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["extra=/a"], [], "fussy got no source 'root', expected --source root=PATH. Add it."),
        (["/a", "/b"], [], "fussy got the source 'root' twice"),
        (["rot=/a"], [], "fussy does not understand the source 'rot=/a'; expected --source root=PATH extra=PATH."),
        (["/a"], ["windw=3"], "the option 'windw=3'; expected --option window=VALUE share=VALUE bands=VALUE."),
        (["/a"], ["window=3.5"], "fussy got the option window='3.5': Input should be a valid integer"),
    ],
)
def test_what_is_not_understood(sources, options, message):
    with pytest.raises(ValueError, match=message):
        open_archive("fussy", sources, options)


def test_unknown_archive():
    with pytest.raises(ValueError, match="Did you mean 'bigearthnet'"):
        open_archive("bigearth", [])
