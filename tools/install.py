#!/usr/bin/env python3
"""Install what dvis_d2 needs into the environment of the Python that runs this file (`make install` does so).

Nothing that works is replaced: a torch and torchvision that fit each other, any build of OpenCV, Detectron2,
and every other package that is installed, whatever its version, stay. What is missing comes at the version
that requirements.txt names. Uses the standard library alone.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import re
import runpy
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DETECTRON2 = runpy.run_path(str(ROOT / "dvis_d2" / "_detectron2.py"))

TORCH_PAIR = {"torch", "torchvision"}
OPENCV = {"opencv-python-headless"}
BUILD_TOOLS = {"setuptools", "wheel"}

# The operator, because a torchvision built for another torch may import and still lack its operators.
TORCH_CHECK = "import torch, torchvision; torchvision.ops.nms(torch.tensor([[0., 0., 1., 1.]]), torch.ones(1), 0.5)"


def requirement_name(requirement: str) -> str:
    """`Hydra_Core==1.3.8; python_version >= "3"` -> `hydra-core` (the normal form of PEP 503)."""
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", requirement)
    if match is None:
        raise ValueError(f"requirements.txt: not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def read_pins(text: str) -> list[str]:
    """The requirement lines of requirements.txt, without comments."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def missing_pins(
    pins: Iterable[str], *, installed: Collection[str], torch_works: bool, opencv_works: bool
) -> list[str]:
    """The pins that have to be installed.

    Args:
        pins: lines of requirements.txt.
        installed: normalized names of the installed distributions.
        torch_works: torch and torchvision import and fit each other. If they do not, both are wanted,
            whichever of the two is installed.
        opencv_works: some distribution provides cv2.
    """
    kept = set(installed) - TORCH_PAIR - OPENCV - BUILD_TOOLS
    kept |= BUILD_TOOLS  # brought by `install_build_tools`
    if torch_works:
        kept |= TORCH_PAIR
    if opencv_works:
        kept |= OPENCV
    return [pin for pin in pins if requirement_name(pin) not in kept]


def finds(module: str) -> bool:
    importlib.invalidate_caches()
    return importlib.util.find_spec(module) is not None


def works(code: str) -> bool:
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def pip(*arguments: str) -> None:
    print("pip", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def install_build_tools() -> None:
    if not finds("pip"):  # an environment whose creation was interrupted, or made without pip
        subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True)
    if not works("import setuptools.build_meta, wheel"):
        pip("install", "setuptools>=77.0.3", "wheel")  # what torch asks for


def install_requirements(requirements: Path) -> None:
    names = (distribution.metadata["Name"] for distribution in importlib.metadata.distributions())
    missing = missing_pins(
        read_pins(requirements.read_text()),
        installed={requirement_name(name) for name in names if name},
        torch_works=works(TORCH_CHECK),
        opencv_works=finds("cv2"),
    )
    if missing:
        # One command, so that torch and torchvision are resolved together. No isolated builds: pip would
        # fetch the newest build tools for them, which are not what was tested.
        pip("install", "--no-build-isolation", *missing)


def install_detectron2(source: str) -> None:
    if source:
        # pip would not know that it provides the same package under another name, and would mix the files.
        pip("uninstall", "-y", requirement_name(DETECTRON2["BUILD"]))
        # It compiles against this environment's torch; its metadata asks for older packages than it needs.
        pip("install", "--no-build-isolation", "--no-deps", source)
    elif not DETECTRON2["has_detectron2"]():
        pip(*DETECTRON2["build_arguments"]())


def check() -> None:
    """Import in a fresh process what the plugin imports; stop with the explanation if it does not work."""
    code = (
        f"import runpy, warnings; warnings.simplefilter('ignore')\n"
        f"module = runpy.run_path({str(ROOT / 'dvis_d2' / '_detectron2.py')!r})\n"
        f"module['require_detectron2']()\n"
        f"import sys, torch, torchvision, detectron2\n"
        f"print('Python', sys.version.split()[0], '| torch', torch.__version__, '| torchvision',\n"
        f"      torchvision.__version__, '| Detectron2', detectron2.__version__, '| CUDA',\n"
        f"      torch.version.cuda if torch.cuda.is_available() else 'no')"
    )
    result = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(result.stderr.strip().rpartition("ImportError: ")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--detectron2",
        default="",
        metavar="SOURCE",
        help="what pip shall install as Detectron2: a git+https address, a folder, or a wheel "
        "(default: keep the one that is there, or install " + DETECTRON2["BUILD"] + ")",
    )
    parser.add_argument("--stamp", type=Path, help="file to write SOURCE to once everything is installed")
    arguments = parser.parse_args()
    if arguments.stamp:  # an installation that fails half-way must not pass for done
        arguments.stamp.unlink(missing_ok=True)

    try:
        install_build_tools()
        install_requirements(ROOT / "requirements.txt")
        install_detectron2(arguments.detectron2)
        pip("install", "--no-build-isolation", "--no-deps", "--quiet", "--editable", str(ROOT))
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"tools/install.py: this command failed: {' '.join(error.cmd)}") from None
    check()
    if arguments.stamp:
        arguments.stamp.write_text(arguments.detectron2 + "\n")


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036  (VENV may name an older environment)
        raise SystemExit(f"dvis_d2 needs Python 3.10 or later; {sys.executable} is {sys.version.split()[0]}")
    main()
