#!/usr/bin/env python3
"""Figures of the code against their goals (`make stats`); the exit status is 1 if one is missed.

Uses the standard library alone.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# What the modules of the package may import: those of a lower rank, or of their own.
RANKS = {
    "dvis_d2.config": 0,
    "dvis_d2.safe_io": 0,
    "dvis_d2.log_once": 0,
    "dvis_d2._detectron2": 0,
    "dvis_d2.processes": 0,
    "dvis_d2.data": 1,
    "dvis_d2.modeling": 2,
    "dvis_d2": 3,  # importing it registers data sets and models
    "dvis_d2.evaluation": 4,
    "dvis_d2.tuning": 5,
    "dvis_d2.checkpoint": 5,
    "dvis_d2.inference": 6,
    "dvis_d2.runtime": 6,
    "dvis_d2.engine": 7,
    "dvis_d2.model_export": 7,
    "dvis_d2.explorer": 8,
    "dvis_d2.report": 8,
    "dvis_d2.api": 8,
    "dvis_d2.cli": 9,
    "dvis_d2.__main__": 10,
}


def python_files(*folders: str, root: Path = ROOT) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def count_lines(*paths: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def count_config_keys(path: Path) -> int:
    """Assignments to an attribute of `cfg` that are not nodes: `cfg.A.B = 1`, but not `cfg.A = CN()`."""
    keys = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and ast.unparse(node.value) != "CN()":
            keys |= {name for name in map(ast.unparse, node.targets) if name.startswith("cfg.")}
    return len(keys)


def count_words(*paths: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").split()) for path in paths)


def module_name(path: Path, root: Path = ROOT) -> str:
    """`dvis_d2/data/__init__.py` -> `dvis_d2.data`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_graph(root: Path = ROOT, *, lazy: bool = True) -> dict[str, set[str]]:
    """For every module of `dvis_d2` those of the project that it imports, packages for what their `__init__` defines.

    Args:
        lazy: count the imports inside functions too.
    """
    paths = {module_name(path, root): path for path in python_files("dvis_d2", root=root)}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [name for node in _import_nodes(tree, lazy) for name in _imported(node, package)]
        found = {_longest_known(name, paths) for name in names if re.match(r"(dvis_d2|experiments)\b", name)}
        graph[module] = found - {module}
    return graph


def _import_nodes(node: ast.AST, lazy: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif lazy or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _import_nodes(child, lazy)


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    """Absolute names, with the name behind `import` as their last part."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parents = package.split(".")
    base = parents[: len(parents) - node.level + 1] if node.level else []
    return [".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names]


def _longest_known(name: str, modules: dict[str, Path]) -> str:
    while name and name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def rank(module: str) -> int:
    """Of the longest part of the name that has one; what has none is above all."""
    while module:
        if module in RANKS:
            return RANKS[module]
        module = module.rpartition(".")[0]
    return max(RANKS.values()) + 1


def upward_arrows(graph: dict[str, set[str]]) -> list[str]:
    """Imports of a module of a higher rank, as "importer -> imported"."""
    return sorted(f"{a} -> {b}" for a, imported in graph.items() for b in imported if rank(b) > rank(a))


def import_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other on some way: strongly connected components of two or more."""
    reached = {module: _reachable(module, graph) for module in graph}
    circles = {
        tuple(sorted(b for b in reached[a] if b in reached and a in reached[b])) for a in graph if a in reached[a]
    }
    return [list(circle) for circle in sorted(circles)]


def _reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = [start]
    while pending:
        new = graph.get(pending.pop(), set()) - found
        found |= new
        pending += new
    return found


def figures(root: Path = ROOT) -> list[tuple[str, int, int, str]]:
    """(what, count, the greatest that is allowed, which)."""
    package = python_files("dvis_d2", root=root)
    own = [*python_files("dvis_d2", "experiments", "tools", "demo", root=root), *sorted(root.glob("*.py"))]
    longest = max(own, key=count_lines)
    circles = import_circles(import_graph(root, lazy=False))
    arrows = upward_arrows(import_graph(root))
    return [
        ("lines of the package", count_lines(*package), 6500, ""),
        ("lines of modeling", count_lines(*python_files("dvis_d2/modeling", root=root)), 3000, ""),
        ("config keys", count_config_keys(root / "dvis_d2" / "config.py"), 60, ""),
        ("lines of README.md", count_lines(root / "README.md"), 120, ""),
        ("words of docs/guide", count_words(*(root / "docs" / "guide").rglob("*.md")), 14000, ""),
        ("lines of the longest file", count_lines(longest), 300, str(longest.relative_to(root))),
        ("import circles", len(circles), 0, "; ".join(", ".join(circle) for circle in circles)),
        ("upward arrows", len(arrows), 0, "; ".join(arrows)),
    ]


def main() -> int:
    rows = figures()
    print(f"{'':26} {'count':>6} {'goal':>7}")
    for what, count, goal, which in rows:
        verdict = "" if count <= goal else "missed"
        print(f"{what:26} {count:>6} {f'<= {goal}':>8}  {verdict:6} {which}".rstrip())
    return int(any(count > goal for _, count, goal, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
