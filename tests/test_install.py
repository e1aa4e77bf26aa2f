"""Pins lie within ranges, nothing that works is replaced, and errors name the command that helps."""

import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path
from unittest import mock

import pytest
import setuptools
from packaging.requirements import Requirement

from dvis_d2 import _detectron2

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


# --- without Detectron2 ---

# Hides everything but torch and the standard library, as if it were not installed.
HIDE = """
import sys
HIDDEN = {"detectron2", "fvcore", "iopath", "torchvision", "cv2", "scipy", "numpy", "PIL", "pycocotools",
          "matplotlib", "sklearn", "yacs", "omegaconf", "tqdm"}
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def run_with_torch_alone(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", HIDE + code], cwd=ROOT, capture_output=True, text=True)


def test_losses_and_mean_shift_work_with_torch_alone():
    result = run_with_torch_alone("""
import torch
import dvis_d2
from dvis_d2.modeling import losses
from dvis_d2.modeling.mean_shift import mean_shift_1d
label_map = torch.tensor([[[0.0, 1.0], [1.5, 3.0]]], requires_grad=True)
instance_ids = torch.tensor([[[0, 1], [1, 2]]])
loss = losses.binary_loss(label_map, instance_ids)
loss = loss + losses.permutation_invariant_loss(label_map, instance_ids)
loss.backward()
modes, assignment = mean_shift_1d(torch.tensor([1.0, 1.0, 5.0]), 0.9)
print(bool(label_map.grad.isfinite().all()), assignment.tolist(), "detectron2" in sys.modules)
""")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[-2] == "True [0, 0, 1] False"


@pytest.mark.parametrize("code", ["import dvis_d2; dvis_d2.add_dvis_config", "from dvis_d2 import add_dvis_config"])
def test_missing_detectron2_names_the_command(code):
    result = run_with_torch_alone(code)
    assert result.returncode == 1
    error = result.stderr[result.stderr.rindex("ImportError:") :]
    assert "dvis_d2 needs Detectron2" in error
    assert "make install" in error and f"--target {_detectron2.build_arguments()[-2]}" in error


def test_unknown_attribute_without_detectron2_is_an_attribute_error():
    result = run_with_torch_alone("import dvis_d2; assert not hasattr(dvis_d2, 'no_such_name')")
    assert result.returncode == 0, result.stderr


# --- a Detectron2 that is broken ---


def missing(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (missing("detectron2"), "dvis_d2 needs Detectron2"),
        (missing("detectron2.config"), "incomplete"),
        (missing("pkg_resources"), 'pip install "setuptools<81"'),
        (missing("torchvision"), "pip install torch torchvision"),
        (missing("cv2"), "pip install opencv-python-headless"),
        (missing("fvcore.common"), "pip install fvcore"),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            "pip install --force-reinstall torch torchvision",
        ),
        (
            ImportError("libGL.so.1: cannot open shared object file: No such file or directory"),
            "pip install --force-reinstall opencv-python-headless",
        ),
        (AttributeError("module 'PIL.Image' has no attribute 'LINEAR'"), "sal-detectron2"),
    ],
)
def test_explanation_names_the_command(error, expected):
    message = _detectron2.explain_import_error(error)
    assert expected in message
    assert "-m pip" in message
    if error.args[0] != "No module named 'detectron2'":
        assert str(error) in message, "the original error has to be shown"


def test_require_detectron2_wraps_errors_of_any_type(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise AttributeError('np.bool')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"AttributeError: np\.bool") as caught:
        _detectron2.require_detectron2("broken_module")
    assert isinstance(caught.value.__cause__, AttributeError)


def test_a_bare_folder_named_detectron2_is_not_detectron2(tmp_path):
    """Python takes a git checkout named detectron2 in the current folder for a namespace package."""
    (tmp_path / "detectron2").mkdir()
    code = f"import runpy; print(runpy.run_path({_detectron2.__file__!r})['has_detectron2']())"
    python = [sys.executable, "-S", "-c", code]  # -S: without site-packages
    assert subprocess.check_output(python, cwd=tmp_path, text=True).strip() == "False"
    (tmp_path / "detectron2" / "__init__.py").touch()
    assert subprocess.check_output(python, cwd=tmp_path, text=True).strip() == "True"


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
        assert pins.pop(requirement.name) in requirement.specifier, f"{requirement} on Python {python}"
    assert set(pins) == {"setuptools", "wheel"}, "pinned, but setup.py does not ask for it"


def test_the_package_includes_its_subpackages_and_nothing_else():
    packages = setup_arguments()["packages"]
    assert {"dvis_d2", "dvis_d2.modeling"} <= set(packages)
    assert {package.partition(".")[0] for package in packages} == {"dvis_d2"}


# --- tools/install.py ---

PINS = [
    "setuptools==80.10.2",
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


def test_requirement_names_are_normalised():
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
    assert dry_run("demo", venv) == [f"{python} tools/demo.py"]
    assert dry_run("demo", venv, "DETECTRON2=../detectron2") == [f"{python} tools/demo.py"]
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
