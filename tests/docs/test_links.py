"""Links in the documents lead to existing files, sections and tests. No network, no site generator."""

import re
from pathlib import Path

import pytest

from docs.pages import BLOCK, DOCUMENTS, ROOT

LINK = re.compile(r"\]\(([^)\s]+)\)")
OUTSIDE = ("https://", "http://", "mailto:")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings that are the same on GitHub and on the site."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()) for title in titles]
    return {anchor for title in plain if "--" not in (anchor := title.strip().replace(" ", "-"))}


def links() -> list[tuple[str, str]]:
    return [
        (page, target)
        for page, text in DOCUMENTS.items()
        for target in LINK.findall(BLOCK.sub("", text))
        if not target.startswith(OUTSIDE)
    ]


@pytest.mark.parametrize("page", DOCUMENTS)
def test_links_lead_somewhere(page):
    wrong = []
    for _, target in (link for link in links() if link[0] == page):
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            wrong.append(target)
    assert wrong == []


def test_every_page_is_linked_from_the_index_and_the_readme():
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    index = {Path(target).stem for page, target in links() if page == "docs/index.md"}
    assert sorted(pages - index) == []
    # The README does not link the pages about measurements; benchmarks.md does.
    known = {
        Path(target.partition("#")[0]).stem for page, target in links() if page in ("README.md", "docs/benchmarks.md")
    }
    assert sorted(pages - known) == []


@pytest.mark.parametrize("page", DOCUMENTS)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:tests|benchmarks|launchers|shards|rspretrain)/[\w./]+)`", DOCUMENTS[page])
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", DOCUMENTS)
def test_results_that_are_named_exist(page):
    named = re.findall(r"`(\w+\.csv)`", DOCUMENTS[page]) if page in ("docs/benchmarks.md", "docs/choosing.md") else []
    assert [name for name in named if not (ROOT / "benchmarks/results" / name).exists()] == []
