"""Detectron2's absence, explained: what is missing or broken, and the command that puts it right.

Uses the standard library alone: the package imports it before anything else, and `tools/install.py` runs it
in an environment in which nothing is installed yet.
"""

import importlib
import importlib.util
import shlex
import sys
import sysconfig

# What the plugin imports of Detectron2. `detectron2.model_zoo` is left out on purpose: importing it warns
# about `pkg_resources` in every process, and only code that asks the model zoo for a file needs it.
PARTS = (
    "detectron2.config",
    "detectron2.data",
    "detectron2.modeling",
    "detectron2.evaluation",
    "detectron2.engine",
    "detectron2.utils.visualizer",
)

# Detectron2 is not on PyPI under its own name. This is its main branch of autumn 2024, unmodified.
BUILD = "sal-detectron2==0.7.2"
OFFICIAL = "git+https://github.com/facebookresearch/detectron2.git"

# Module name -> what to give to pip, where the two differ.
_REQUIREMENTS = {
    # A pair, because each torchvision release fits one torch release.
    "torch": "torch torchvision",
    "torchvision": "torch torchvision",
    # setuptools 81 removed pkg_resources, which detectron2.model_zoo imports.
    "pkg_resources": '"setuptools<81"',
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
    """Arguments of `python -m pip` that install BUILD into the environment of the running Python.

    The build is tagged for CPython 3.10 and its metadata asks for NumPy 1, but its Python code runs on later
    ones. So pip is told to look for a 3.10 wheel, which it accepts only together with --target.
    """
    tags = "--python-version 3.10 --implementation cp --abi none --platform any"
    target = sysconfig.get_path("purelib")
    return ["install", "--no-deps", "--only-binary=:all:", *tags.split(), "--target", target, BUILD]


def _pip(*arguments: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip {' '.join(arguments)}"


_INSTALL_COMMAND = _pip("install", '"setuptools<81"') + " && " + _pip(*map(shlex.quote, build_arguments()))

INSTALL_HINT = f"""\
dvis_d2 needs Detectron2, which {sys.executable} does not find. (dvis_d2.modeling.losses and
dvis_d2.modeling.mean_shift work without it.) Install it with one of
  make install    (in the checkout of dvis_d2: makes .venv with everything in it)
  {_INSTALL_COMMAND}
  {_pip("install", "--no-build-isolation", OFFICIAL)}    (needs git and a C++ compiler)"""


def explain_import_error(error: BaseException) -> str:
    """Say what `error`, raised while Detectron2 was imported, means and which command puts it right."""
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
    if missing == "detectron2":
        return INSTALL_HINT

    what = f"Detectron2 is installed but cannot be imported ({type(error).__name__}: {error})."
    if missing.startswith("detectron2."):
        spec = importlib.util.find_spec("detectron2")
        where = ", ".join(spec.submodule_search_locations or []) if spec else "sys.path"
        return (
            f"{what} The package that Python finds ({where}) has no {missing}: it is incomplete, or a folder "
            f"named detectron2 (its git checkout?) hides it. Run from another folder, or install it again:\n"
            f"  {_INSTALL_COMMAND}"
        )
    if missing:
        root = missing.partition(".")[0]
        return f"{what} Install what is missing:\n  {_pip('install', _REQUIREMENTS.get(root, root))}"
    # Raised by torchvision's import as a RuntimeError ("operator torchvision::nms does not exist").
    if "torchvision::" in str(error):
        return (
            f"{what} torchvision was built for another torch. Install the two together:\n"
            f"  {_pip('install', '--force-reinstall', 'torch torchvision')}"
        )
    # opencv-python links against the desktop's OpenGL, which servers and containers lack.
    if "libGL" in str(error):
        return (
            f"{what} opencv-python needs a graphics library that this machine lacks; the headless build does "
            f"not:\n"
            f"  {_pip('uninstall', '-y', 'opencv-python')} && "
            f"{_pip('install', '--force-reinstall', 'opencv-python-headless')}"
        )
    return f"{what} Install it again:\n  {_INSTALL_COMMAND}"


def require_detectron2(*modules: str) -> None:
    """Import `modules` of Detectron2 (all that the plugin uses, if none is named).

    Raises:
        ImportError: one of them is missing or broken. The message says what is wrong and names the command
            that puts it right; the original error is its cause.
    """
    for module in modules or PARTS:
        try:
            importlib.import_module(module)
        # Any type: a torch that does not fit raises RuntimeError, a NumPy that does not AttributeError.
        except Exception as error:
            raise ImportError(explain_import_error(error), name="detectron2") from error
