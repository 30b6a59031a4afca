"""Automatic checks of the house rules: size, layers, mirrored tests, the tree in docs/architecture.md."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rspretrain.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rspretrain"
SOURCES = sorted(path for folder in ("rspretrain", "shards", "launchers") for path in (ROOT / folder).rglob("*.py"))
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
# Interfaces and tables without behaviour, which the tests of their users cover.
WITHOUT_TESTS = {
    "archives/base.py", "arrays.py", "batch.py", "nn/model_card.py", "patch.py", "settings.py",
}  # fmt: skip

# Modules that are tested through their users, or the users of these.
TESTED_THROUGH = {
    "active_learning/queries/entropy.py": ("active_learning/queries/__init__.py",),
    "active_learning/queries/random.py": ("active_learning/queries/__init__.py",),
    "archives/pairing.py": ("archives/geotiff.py",),
    "archives/rois.py": ("archives/sen12ms.py",),
    "config/kinds.py": ("config/loading.py",),
    "engine/classification.py": ("engine/finetune.py",),
    "nn/classifiers/base.py": ("nn/classifiers/linear.py",),
    "strategies/accumulate.py": ("strategies/__init__.py",),
    "strategies/ddp.py": ("strategies/__init__.py",),
    "strategies/fsdp.py": ("strategies/__init__.py",),
    "strategies/zero.py": ("strategies/deepspeed.py", "strategies/__init__.py"),
}


def dotted(module: Path) -> str:
    """`rspretrain.archives.base` for `archives/base.py`."""
    return ".".join(["rspretrain", *module.with_suffix("").parts]).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path):
    text = path.read_text()
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno} lines"


def defining_modules(package: str, names: set[str]) -> set[str]:
    """The modules from which the `__init__.py` of a package imports these names."""
    front = ROOT / package.replace(".", "/") / "__init__.py"
    if not front.is_file():
        return set()
    imports = [node for node in ast.parse(front.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {node.module for node in imports if node.module and names & {alias.name for alias in node.names}}


def modules_imported_by(path: Path) -> set[str]:
    """Dotted names that a file imports, and the modules that define the names it imports from packages."""
    tree = ast.parse(path.read_text())
    attributes: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            attributes.setdefault(node.value.id, set()).add(node.attr)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {alias.name for alias in node.names}
            found |= {node.module} | {f"{node.module}.{name}" for name in names}
            found |= defining_modules(node.module, names)
            for name in names:  # from rspretrain import config; config.load(…)
                found |= defining_modules(f"{node.module}.{name}", attributes.get(name, set()))
        elif isinstance(node, ast.Constant) and re.fullmatch(r"rspretrain(\.\w+)+:\w+", str(node.value)):
            found.add(node.value.partition(":")[0])  # a row of a registry
    return found


def modules_used_by(test: Path) -> set[str]:
    """The imports of a test file, and those of the helpers in tests/ that it imports."""
    found: set[str] = set()
    paths = [test]
    seen = set()
    while paths:
        path = paths.pop()
        seen.add(path)
        imported = modules_imported_by(path)
        helpers = {ROOT / "tests" / f"{name.replace('.', '/')}.py" for name in imported}
        paths += [helper for helper in helpers if helper.is_file() and helper not in seen]
        found |= imported
    return found


def commands_run_by_tests() -> set[str]:
    """Commands that tests/cli starts: `command("verify", …)`, or "rspretrain.cli.verify" as a process."""
    found: set[str] = set()
    for path in (ROOT / "tests/cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "command":
                found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
            elif isinstance(node, ast.Constant) and str(node.value).startswith("rspretrain.cli."):
                found.add(node.value.removeprefix("rspretrain.cli.").replace("_", "-"))
    return found


def test_every_command_is_run_by_the_tests():
    assert sorted(set(COMMANDS) - commands_run_by_tests()) == []


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_module_has_its_tests(module):
    if str(module) in WITHOUT_TESTS or (module.parent.name == "cli" and module.stem.replace("_", "-") in COMMANDS):
        return
    test = ROOT / "tests" / module.parent / f"test_{module.name}"
    assert test.is_file()
    used, wanted = modules_used_by(test), dotted(module)
    for user in TESTED_THROUGH.get(str(module), ()):
        assert wanted in modules_imported_by(PACKAGE / user)
        wanted = dotted(Path(user))
    assert wanted in used


def test_exceptions_are_modules():
    assert WITHOUT_TESTS | set(TESTED_THROUGH) <= {str(module) for module in MODULES}
    assert [
        name for name in WITHOUT_TESTS if (ROOT / "tests" / Path(name).parent / f"test_{Path(name).name}").exists()
    ] == []


def tree_of(page: str) -> set[str]:
    """The paths of the tree in a page: a line per file or folder, nested by two spaces, then its description."""
    (block,) = re.findall(r"^```text\nrspretrain/\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    folders: list[str] = []
    paths = set()
    for line in block.splitlines():
        indent, name, description = re.fullmatch(r"( +)(\S+) +(\S.*)", line).groups()
        folders = folders[: len(indent) // 2 - 1]
        assert len(folders) == len(indent) // 2 - 1, line
        assert description
        if name.endswith("/"):
            folders.append(name)
        else:
            paths.add("".join(folders) + name)
    return paths


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()


def test_the_architecture_page_has_the_layers():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert "\n".join(contract["layers"]).replace("rspretrain.", "") in ARCHITECTURE


def test_the_architecture_page_has_the_tree():
    shown = tree_of(ARCHITECTURE)
    modules = {str(module) for module in MODULES}
    assert sorted(shown - modules) == []
    assert sorted(modules - shown) == []


def run(tool: str, *arguments: str) -> None:
    command = (Path(sys.executable).parent / tool, *arguments)  # of this environment, regardless of PATH
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
