"""Pins lie within ranges, nothing that works is replaced, and the wheel has what users run."""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from unittest import mock

import pytest
import setuptools
from packaging.requirements import Requirement

import dvis_d2

ROOT = Path(__file__).resolve().parents[1]
SUPPORTED_PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def load_install() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("dvis_d2_install", ROOT / "tools" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins_for(python: str) -> list[Requirement]:
    pins = map(Requirement, load_install().read_pins((ROOT / "requirements.txt").read_text()))
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": python})]


def setup_arguments() -> dict:
    with mock.patch.object(setuptools, "setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return setup.call_args.kwargs


# --- requirements ---


@pytest.mark.parametrize("python", SUPPORTED_PYTHONS)
def test_every_package_is_pinned_once_and_within_its_range(python):
    arguments = setup_arguments()
    pins = {}
    for pin in pins_for(python):
        assert pin.name not in pins, f"{pin.name} is pinned twice for Python {python}"
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        pins[pin.name] = specifier.version
    ranges = [*arguments["install_requires"], *sum(arguments["extras_require"].values(), [])]
    for requirement in map(Requirement, ranges):
        assert pins[requirement.name] in requirement.specifier, f"{requirement} on Python {python}"
    unused = pins.keys() - {requirement.name for requirement in map(Requirement, ranges)}
    assert unused == {"setuptools", "wheel"}, "pinned, but setup.py does not ask for it"


def test_the_runtime_needs_nothing_that_the_package_does_not():
    arguments = setup_arguments()
    ranges = {*arguments["install_requires"], *arguments["extras_require"]["runtime"]}
    lines = load_install().read_pins((ROOT / "requirements-runtime.txt").read_text())
    assert set(lines) <= ranges and not {"torch", "scipy"} & {Requirement(line).name for line in lines}


def test_the_package_includes_its_subpackages_and_nothing_else():
    packages = setup_arguments()["packages"]
    assert {"dvis_d2", "dvis_d2.modeling", "dvis_d2.cli", "dvis_d2.configs"} <= set(packages)
    assert {package.partition(".")[0] for package in packages} == {"dvis_d2"}


def test_there_is_one_version_number():
    assert setup_arguments()["version"] == dvis_d2.__version__


@pytest.mark.slow
def test_the_wheel_has_the_program_and_every_config(tmp_path):
    checkout = tmp_path / "checkout"
    for name in ("dvis_d2", "configs", "models"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", ".", "-w", str(tmp_path)]
    subprocess.run(pip, cwd=checkout, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        program = next(file.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    configs = {f"dvis_d2/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    static = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dvis_d2").glob("*/static/*")}
    assert configs | static <= names and "dvis_d2/cli/__init__.py" in names and "dvis = dvis_d2.cli:main" in program
    assert {name.partition("/")[0] for name in names} == {"dvis_d2", f"dvis_d2-{dvis_d2.__version__}.dist-info"}


# --- tools/install.py ---

PINS = [
    "setuptools==84.2.1",
    'torch==2.15.0; python_version >= "3.11"',
    "torchvision==0.29.2",
    "opencv-python-headless==5.0.0.93",
    "hydra-core==1.3.8",
]


@pytest.mark.parametrize(
    ("installed", "torch_works", "opencv_works", "expected"),
    [
        (set(), False, False, PINS[1:]),
        # a lone torch is replaced together with the torchvision that it lacks
        ({"torch", "hydra-core"}, False, False, PINS[1:4]),
        # opencv-python counts as OpenCV
        ({"torch", "torchvision", "opencv-python"}, True, True, PINS[4:]),
        # a conda package may provide torch under another name
        ({"hydra-core"}, True, True, []),
    ],
)
def test_missing_pins(installed, torch_works, opencv_works, expected):
    missing_pins = load_install().missing_pins
    assert missing_pins(PINS, installed=installed, torch_works=torch_works, opencv_works=opencv_works) == expected


def test_requirement_names_are_normalized():
    install = load_install()
    assert install.requirement_name('Hydra_Core.x==1; python_version < "3.11"') == "hydra-core-x"
    assert install.read_pins("# comment\n\na==1  # why\n b==2\n") == ["a==1", "b==2"]
    with pytest.raises(ValueError, match="not a requirement: '-r other.txt'"):
        install.requirement_name("-r other.txt")


def run_install(monkeypatch, *arguments: str, fails: bool = False) -> list[tuple[str, ...]]:
    """Run tools/install.py with a pip that only notes its arguments (or fails at Detectron2)."""
    install = load_install()
    calls = []

    def pip(*command: str) -> None:
        calls.append(command)
        if fails and "../detectron2" in command:
            raise subprocess.CalledProcessError(1, ["pip", *command])

    monkeypatch.setattr(install, "pip", pip)
    monkeypatch.setattr(install, "works", lambda code: True)
    monkeypatch.setattr(install, "check", lambda: None)
    monkeypatch.setattr(sys, "argv", ["install.py", *arguments])
    install.main()
    return calls


def test_a_complete_environment_only_gets_the_project(monkeypatch, tmp_path):
    stamp = tmp_path / "stamp"
    install = load_install()
    installed = [
        types.SimpleNamespace(metadata={"Name": Requirement(pin).name})
        for pin in install.read_pins((ROOT / "requirements.txt").read_text())
    ]
    monkeypatch.setattr("importlib.metadata.distributions", lambda: installed)
    (command,) = run_install(monkeypatch, "--stamp", str(stamp))
    assert command[-2:] == ("--editable", str(ROOT))
    assert stamp.read_text().strip() == ""


def test_a_named_detectron2_replaces_the_installed_one(monkeypatch, tmp_path):
    stamp = tmp_path / "stamp"
    calls = run_install(monkeypatch, "--stamp", str(stamp), "--detectron2", "../detectron2")
    assert calls[-3:-1] == [
        ("uninstall", "-y", "sal-detectron2"),
        ("install", "--no-build-isolation", "--no-deps", "../detectron2"),
    ]
    assert stamp.read_text().strip() == "../detectron2"


def test_a_failed_installation_leaves_no_stamp(monkeypatch, tmp_path):
    stamp = tmp_path / "stamp"
    stamp.touch()
    with pytest.raises(SystemExit, match=r"this command failed: pip install .*\.\./detectron2"):
        run_install(monkeypatch, "--stamp", str(stamp), "--detectron2", "../detectron2", fails=True)
    assert not stamp.exists()


# --- Makefile ---


def run_make(*arguments: str) -> subprocess.CompletedProcess:
    # Without what an outer make (`make test VENV=...`) hands down to this one.
    outer = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHON", "VENV", "DETECTRON2"}
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def dry_run(*arguments: str) -> list[str]:
    result = run_make("-n", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@needs_make
def test_make_creates_the_environment_that_is_named(tmp_path):
    venv = tmp_path / "env"
    lines = dry_run("test", f"VENV={venv}", "PYTHON=some-python")
    create = lines.index(f"some-python -m venv '{venv}'")
    assert lines[create + 1].startswith(f"{venv}/bin/python tools/install.py")
    assert lines[-1] == f'{venv}/bin/python -m pytest -m "not slow"'


@needs_make
def test_make_installs_once(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    venv = f"VENV={tmp_path}"
    assert any("tools/install.py" in line for line in dry_run("demo", venv)), "an existing one is added to"

    (tmp_path / ".dvis_d2-installed").write_text("../detectron2\n")
    demo = f"{python} -m dvis_d2 train --config-file configs/shapes/shapes_easy.yaml --resume OUTPUT_DIR output/demo"
    assert dry_run("demo", venv) == [demo]
    assert dry_run("demo", venv, "DETECTRON2=../detectron2") == [demo]
    assert any("--detectron2 'other.whl'" in line for line in dry_run("demo", venv, "DETECTRON2=other.whl"))


@needs_make
def test_make_refuses_an_old_python(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = run_make("install", f"PYTHON={old}", f"VENV={tmp_path / 'env'}")
    assert result.returncode != 0
    assert "needs Python 3.10 or later" in result.stderr
    assert not (tmp_path / "env").exists()
