"""Without Detectron2, or with a broken one: what still works, and errors that name the command that helps."""

import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from dvis_d2 import _detectron2, install_detectron2

ROOT = Path(__file__).resolve().parents[1]


# Hides everything but torch and the standard library, as if it were not installed.
HIDE = """
import sys
HIDDEN = {"detectron2", "fvcore", "iopath", "torchvision", "cv2", "scipy", "numpy", "PIL", "pycocotools",
          "matplotlib", "sklearn", "yacs", "omegaconf", "tqdm", "click", "faster_coco_eval"}
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def run_with_torch_alone(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", HIDE + code], cwd=ROOT, capture_output=True, text=True)


def test_the_losses_work_with_torch_alone():
    result = run_with_torch_alone("""
import torch
import dvis_d2
from dvis_d2.modeling import losses
label_map = torch.tensor([[[0.0, 1.0], [1.5, 3.0]]], requires_grad=True)
instance_ids = torch.tensor([[[0, 1], [1, 2]]])
loss = losses.binary_loss(label_map, instance_ids)
loss = loss + losses.permutation_invariant_loss(label_map, instance_ids)
loss.backward()
print(bool(label_map.grad.isfinite().all()), "detectron2" in sys.modules)
""")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[-2] == "True False"


def test_mean_shift_works_with_numpy_alone():
    result = run_with_torch_alone("""
HIDDEN ^= {"numpy", "torch"}
import numpy as np
from dvis_d2.modeling.mean_shift import mean_shift_1d
print(mean_shift_1d(np.array([1.0, 1.0, 5.0]), 0.9)[1].tolist())
""")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[-2] == "[0, 0, 1]"


@pytest.mark.parametrize("code", ["import dvis_d2; dvis_d2.add_dvis_config", "from dvis_d2 import add_dvis_config"])
def test_missing_detectron2_names_the_command(code):
    result = run_with_torch_alone(code)
    assert result.returncode == 1
    error = result.stderr[result.stderr.rindex("ImportError:") :]
    assert "dvis_d2 needs Detectron2" in error
    assert "make install" in error and "-m dvis_d2.install_detectron2 " in error


def test_the_program_starts_without_setuptools():
    code = "import sys; sys.modules.update(pkg_resources=None, setuptools=None); import dvis_d2.cli"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_unknown_attribute_without_detectron2_is_an_attribute_error():
    result = run_with_torch_alone("import dvis_d2; assert not hasattr(dvis_d2, 'no_such_name')")
    assert result.returncode == 0, result.stderr


# --- the step that installs it ---


@pytest.mark.parametrize("installed", [True, False])
def test_installing_keeps_what_is_there(monkeypatch, capsys, installed):
    calls = []
    monkeypatch.setattr(install_detectron2, "has_detectron2", lambda: installed)
    monkeypatch.setattr(subprocess, "run", lambda command: calls.append(command) or mock.Mock(returncode=0))
    install_detectron2.main()
    assert calls == ([] if installed else [[sys.executable, "-m", "pip", *_detectron2.build_arguments()]])
    assert "installed and works" in capsys.readouterr().out


def test_installing_says_what_pip_could_not_do(monkeypatch):
    monkeypatch.setattr(install_detectron2, "has_detectron2", lambda: False)
    monkeypatch.setattr(subprocess, "run", lambda command: mock.Mock(returncode=1))
    with pytest.raises(SystemExit, match="could not be installed\nread what pip says above"):
        install_detectron2.main()


# --- a Detectron2 that is broken ---


def missing(module: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {module!r}", name=module)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (missing("detectron2"), "dvis_d2 needs Detectron2"),
        (missing("detectron2.config"), "incomplete"),
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
