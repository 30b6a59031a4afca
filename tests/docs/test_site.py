"""The site has every page, and builds without warnings if its generator is installed (requirements/docs.txt)."""

import re
import subprocess
import sys

import pytest
import yaml

from docs.pages import ROOT

OUTSIDE = {"readme.md", "contributing.md"}  # docs/site/hooks.py adds them


def pages_of(nav: list) -> list[str]:
    """All pages, in reading order."""
    found: list[str] = []
    for entry in nav:
        for value in entry.values():
            found += [value] if isinstance(value, str) else pages_of(value)
    return found


def test_every_page_is_in_the_navigation_once():
    pages = pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(pages) == sorted({path.name for path in (ROOT / "docs").glob("*.md")} | OUTSIDE)


@pytest.mark.slow
def test_the_site_builds_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocstrings_handlers.python")
    pytest.importorskip("latex2mathml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    texts = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    loaded = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*")
    assert {path.name: loaded.findall(text) for path, text in texts.items() if loaded.search(text)} == {}
    methods = texts[tmp_path / "methods.html"]
    assert "<math" in methods
    assert "$" not in re.sub(r"<(script|code|pre).*?</\1>", "", methods, flags=re.DOTALL)  # no formula is left as text
    assert "rspretrain.objectives.byol.Byol" in texts[tmp_path / "api/rspretrain.objectives.html"]
