"""The rules of the house that a machine can watch: size, layers, mirrored tests, the README's tree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rspretrain"
SOURCES = sorted(path for folder in ("rspretrain", "shards", "launchers") for path in (ROOT / folder).rglob("*.py"))
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
# Contracts and tables without behaviour of their own: whoever implements or reads them tests them.
WITHOUT_TESTS = {
    "archives/base.py", "archives/corine.py", "arrays.py", "batch.py", "nn/card.py", "objectives/base.py", "patch.py",
    "settings.py",
}  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno} lines"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_its_tests(module):
    if str(module) not in WITHOUT_TESTS:
        assert (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()


def test_readme_shows_the_tree():
    readme = (ROOT / "README.md").read_text()
    missing = [str(module) for module in MODULES if not re.search(rf"\b{re.escape(module.stem)}\b", readme)]
    assert not missing


def run(tool: str, *arguments: str) -> None:
    command = (Path(sys.executable).parent / tool, *arguments)  # of this environment, whatever PATH says
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_imports_point_down():
    run("lint-imports", "--no-cache")


def test_ruff():
    run("ruff", "check", "--no-cache", ".")
    run("ruff", "format", "--no-cache", "--check", ".")


def test_mypy():
    run("mypy")


def test_archives_and_shards_need_no_torch():
    modules = [
        f"rspretrain.{str(m)[:-3].replace('/', '.')}"
        for m in MODULES
        if m.parts[0] in ("archives", "download", "shardset")
    ]
    run("python", "-c", f"import {', '.join(modules)}, sys; assert 'torch' not in sys.modules")
