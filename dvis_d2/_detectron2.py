"""What of Detectron2 is missing or broken, and the command that puts it right. Uses the standard library alone:
`tools/install.py` runs it where nothing is installed yet."""

import importlib
import importlib.util
import shlex
import sys
import sysconfig

# What the plugin imports of Detectron2; not `model_zoo`, which needs `pkg_resources`, gone since setuptools 81.
_PARTS = "config data modeling evaluation engine projects.deeplab utils.visualizer"
PARTS = tuple(f"detectron2.{part}" for part in _PARTS.split())

# Detectron2 is not on PyPI under its own name. This is its main branch of autumn 2024, unmodified.
BUILD = "sal-detectron2==0.7.2"
OFFICIAL = "git+https://github.com/facebookresearch/detectron2.git"

# Module name -> what to give to pip, where the two differ.
_REQUIREMENTS = {
    "torch": "torch torchvision",  # a pair: each torchvision release fits one torch release
    "torchvision": "torch torchvision",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "hydra": "hydra-core",
    "yaml": "pyyaml",
}


def has_detectron2() -> bool:
    """Whether Detectron2 is installed, in working order or not. A bare folder of that name does not count."""
    try:
        spec = importlib.util.find_spec("detectron2")
    except (ImportError, ValueError):  # blocked by a finder, or by None in sys.modules
        return False
    return spec is not None and spec.origin is not None


def build_arguments() -> list[str]:
    """Arguments of `python -m pip` that install BUILD into the running Python's environment. It is tagged for CPython
    3.10 and runs on later ones: pip looks for a 3.10 wheel only together with --target."""
    tags = "--python-version 3.10 --implementation cp --abi none --platform any"
    target = sysconfig.get_path("purelib")
    return ["install", "--no-deps", "--only-binary=:all:", *tags.split(), "--target", target, BUILD]


def _pip(*arguments: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip {' '.join(arguments)}"


INSTALL_HINT = f"""\
dvis_d2 needs Detectron2, which {sys.executable} does not find. (dvis_d2.modeling.losses and
dvis_d2.modeling.mean_shift work without it.) Install it with one of
  make install    (in the checkout of dvis_d2: makes .venv with everything in it)
  {shlex.quote(sys.executable)} -m dvis_d2.install_detectron2    (takes {BUILD}, a build of its main branch)
  {_pip("install", "--no-build-isolation", OFFICIAL)}    (needs git and a C++ compiler)"""


def explain_import_error(error: BaseException) -> str:
    """Say what `error`, raised while Detectron2 was imported, means and which command puts it right."""
    missing = error.name or "" if isinstance(error, ModuleNotFoundError) else ""
    root = missing.partition(".")[0]
    if missing == "detectron2":
        return INSTALL_HINT
    advice, command = "Install it again", _pip(*map(shlex.quote, build_arguments()))
    if root == "detectron2":
        advice = (
            f"The package that Python finds ({', '.join(sys.modules[root].__path__)}) has no {missing}: it is "
            "incomplete, or a folder named detectron2 (its git checkout?) hides it. Run from another folder, or "
            "install it again"
        )
    elif missing:
        advice, command = "Install what is missing", _pip("install", _REQUIREMENTS.get(root, root))
    elif "torchvision::" in str(error):  # a RuntimeError: "operator torchvision::nms does not exist"
        advice = "torchvision was built for another torch. Install the two together"
        command = _pip("install", "--force-reinstall", "torch torchvision")
    elif "libGL" in str(error):
        advice = "opencv-python needs a graphics library that this machine lacks; the headless build does not"
        reinstall = _pip("install", "--force-reinstall", "opencv-python-headless")
        command = f"{_pip('uninstall', '-y', 'opencv-python')} && {reinstall}"
    return f"Detectron2 is installed but cannot be imported ({type(error).__name__}: {error}). {advice}:\n  {command}"


def require_detectron2(*modules: str) -> None:
    """Import `modules` of Detectron2 (all that the plugin uses, if none is named); if one is missing or broken, the
    ImportError names the command that puts it right."""
    for module in modules or PARTS:
        try:
            importlib.import_module(module)
        # Any type: a torch that does not fit raises RuntimeError, a NumPy that does not AttributeError.
        except Exception as error:
            raise ImportError(explain_import_error(error), name="detectron2") from error
