"""The site: `make docs`, or `python -m sphinx -W -b html docs output/docs`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import dvis_d2  # noqa: E402

project = "dvis_d2"
copyright = "the dvis_d2 contributors, Apache-2.0"
version = release = dvis_d2.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"dvis_d2 {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
# What Detectron2's base classes document is Detectron2's to document.
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False


def escape_bars(app, what, name, obj, options, lines):
    """Docstrings write |f - value| for an absolute value; to reStructuredText a bar starts a substitution."""
    for number, line in enumerate(lines):
        parts = line.split("``")  # every other one is a literal
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "``".join(parts)


def setup(app):
    app.connect("autodoc-process-docstring", escape_bars)
