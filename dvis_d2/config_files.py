"""The configs that come with the package, found by name wherever a program is started."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """The folder ``configs``: inside an installed package, beside the package in a checkout."""
    packaged = _PACKAGE / "configs"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "configs"


def find_config(path: str) -> str:
    """The file at `path`, or, if there is none, the packaged config of that name, say "configs/nuclei/nuclei.yaml" or
    "nuclei/nuclei.yaml"; if there is neither, the FileNotFoundError lists the packaged ones."""
    if os.path.isfile(path) or "://" in path:
        return path
    folder = config_folder()
    packaged = folder / path.removeprefix("./").removeprefix("configs/")
    if packaged.is_file():
        return str(packaged)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml") if not p.name.startswith("Base"))
    raise FileNotFoundError(f"there is no config file {path}; dvis_d2 comes with {', '.join(names)}")
