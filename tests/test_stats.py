"""tools/stats.py on a small project."""

import pytest


@pytest.fixture
def project(tmp_path):
    """Writes files into an empty project; packages get their `__init__.py`."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text)
        return tmp_path

    return write


def test_imports_of_modules_and_of_packages(project, stats):
    root = project(
        {
            "dvis_d2/data/a.py": "from . import b\nfrom ..modeling import c, NAME\nimport os, dvis_d2.config",
            "dvis_d2/data/b.py": "def f():\n    from ..engine.d import x",
            "dvis_d2/modeling/c.py": "from experiments.run import y",
            "dvis_d2/engine/d.py": "",
            "dvis_d2/config.py": "",
        }
    )
    graph = stats.import_graph(root)
    assert graph["dvis_d2.data.a"] == {"dvis_d2.data.b", "dvis_d2.modeling.c", "dvis_d2.modeling", "dvis_d2.config"}
    assert graph["dvis_d2.data.b"] == {"dvis_d2.engine.d"}
    assert stats.import_graph(root, lazy=False)["dvis_d2.data.b"] == set()
    assert stats.upward_arrows(graph) == [
        "dvis_d2.data.a -> dvis_d2.modeling",
        "dvis_d2.data.a -> dvis_d2.modeling.c",
        "dvis_d2.data.b -> dvis_d2.engine.d",
        "dvis_d2.modeling.c -> experiments",
    ]


def test_circles_are_found_however_long(stats):
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"g"}, "g": {"f"}}
    assert stats.import_circles(graph) == [["a", "b", "c"], ["f", "g"]]


def test_config_keys_are_counted_without_nodes(tmp_path, stats):
    (tmp_path / "config.py").write_text(
        "def add(cfg):\n    cfg.A = CN()\n    cfg.A.B = 1\n    cfg.C = CN()\n    cfg.C.D = ()"
    )
    assert stats.count_config_keys(tmp_path / "config.py") == 2
