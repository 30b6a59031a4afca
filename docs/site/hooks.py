"""Hooks of the documentation site: pages from outside docs/, the API reference, and formulas as MathML.

mkdocs calls these functions (mkdocs.yml). GitHub shows the same files without them.
"""

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "rspretrain"
OUTSIDE = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
IMAGES = ("benchmarks/results/label_budget.png",)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
OPERATOR = re.compile(r"(<mi>(?:log|min|max|exp|sin|cos)</mi>)(?!<mo[^>]*>&#x00028;|<mrow><mo[^>]*>&#x00028;|</)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def packages() -> list[str]:
    """Dotted names of all packages with modules, `rspretrain` first."""
    folders = sorted({path.parent for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"})
    return [".".join(folder.relative_to(ROOT).parts) for folder in folders]


def modules(package: str) -> list[str]:
    """Dotted names of the modules of a package."""
    folder = ROOT / package.replace(".", "/")
    return [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]


def on_config(config: Any) -> Any:
    """Append the API reference and the changelog to the navigation."""
    reference = [{package.removeprefix("rspretrain."): f"api/{package}.md"} for package in packages()]
    config.nav = [*config.nav, {"API reference": reference}, {"Changelog": "changelog.md"}]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages and images from outside docs/, and a page of the API reference per package."""
    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text()))
    for image in IMAGES:
        files.append(File.generated(config, image, content=(ROOT / image).read_bytes()))
    for package in packages():
        parts = [f"# {package}", f"::: {package}\n    options: {{members: false, show_root_heading: false}}"]
        parts += [f"::: {module}" for module in modules(package)]
        files.append(File.generated(config, f"api/{package}.md", content="\n\n".join(parts)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Point links across the border of docs/ at the pages of the site; links to code become plain text."""
    is_outside = page.file.src_uri in OUTSIDE.values()

    def rewritten(link: re.Match[str]) -> str:
        mark, text, target, anchor = link.groups()
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        inside = target.removeprefix("docs/") if is_outside else target.removeprefix("../")
        inside = OUTSIDE.get(inside, inside)
        if files.get_file_from_path(inside) is None:
            path = ROOT / inside
            return text if path.is_file() and not mark else link[0]
        return f"{mark}[{text}]({inside}{anchor or ''})"

    return LINK.sub(rewritten, markdown)


def on_page_content(html: str, *, page: Any, config: Any, files: Files) -> str:
    """Formulas to MathML, which browsers show without a script."""

    def mathml(formula: re.Match[str]) -> str:
        display = "block" if formula[1] == "div" else "inline"
        latex = formula[2].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">").strip()
        found = convert(latex, display=display)
        return OPERATOR.sub(r"\1<mspace width='0.17em'/>", found)  # log G, not logG

    return FORMULA.sub(mathml, html)
