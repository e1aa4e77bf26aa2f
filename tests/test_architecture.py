"""How the package's files may depend on each other, read from their imports."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "dvis_d2").rglob("*.py"))
OUTSIDE = {"experiments", "tools", "tests", "demo", "train_net"}


def imports(path: Path) -> list[tuple[str, int]]:
    """(module as written, level of a relative import) of every import of a file."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [(alias.name, 0) for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return names + [(node.module or "", node.level) for node in nodes if isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize("name", ["import circles", "upward arrows", "config keys", "lines of modeling"])
def test_figures_are_within_their_goals(stats, name):
    ((count, goal, which),) = [figure[1:] for figure in stats.figures() if figure[0] == name]
    assert count <= goal, which


def test_the_package_imports_nothing_outside_of_it_and_its_own_files_relatively():
    absolute = [(path, name) for path in FILES for name, level in imports(path) if not level]
    assert not [f"{path}: {name}" for path, name in absolute if name.split(".")[0] in OUTSIDE | {"dvis_d2"}]


def test_no_two_files_of_the_package_share_a_name():
    names = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert not [name for name, count in names.items() if count > 1]


def test_no_file_is_too_long(stats):
    folders = ("dvis_d2", "experiments", "tools", "tests", "demo")
    lengths = {str(p): stats.count_lines(p) for folder in folders for p in (ROOT / folder).rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 300}


def test_every_module_of_the_method_has_its_file_of_tests():
    modules = [path.name for path in (ROOT / "dvis_d2" / "modeling").glob("[!_]*.py")]
    assert not [name for name in modules if not (ROOT / "tests" / "modeling" / f"test_{name}").is_file()]
