"""Parts of the documents: sections, code blocks and commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *(ROOT / ".github").rglob("*.md"))
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(page: str, title: str) -> str:
    """The text below a heading of the second level."""
    return PAGES[page].partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(page: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(PAGES[page]) if kind == language]


def code_lines(text: str) -> list[str]:
    """The lines of all fenced and indented blocks, continued lines joined, comments removed."""
    fenced = "\n".join(body for _, body in BLOCK.findall(text))
    indented = "\n".join(re.findall(r"^ {4,}(.*)$", BLOCK.sub("", text), re.MULTILINE))
    lines = f"{fenced}\n{indented}".replace("\\\n", " ").splitlines()
    return [re.sub("  +", " ", line.partition(" #")[0].strip()) for line in lines]
