#!/usr/bin/env python3
"""See that the wheel works as a stranger installs it: `pip install` into a fresh environment, the step that installs
Detectron2, and masks in a file, in a folder that knows nothing of the checkout. Then the same masks' file by an export,
in an environment without torch, whose download has a limit. Uses the standard library alone."""

import os
import shlex
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNTIME_MB = 150  # of the torch-free environment's packages as they are downloaded, in 1e6 bytes


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = environment(folder, "env")
        run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
        wheel = next(Path(folder).glob("*.whl"))
        run("python", "-m", "pip", "install", "-q", wheel)
        run("python", "-m", "dvis_d2.install_detectron2")
        run("dvis", "--version")
        predict(run, folder, "nuclei", "masks")
        run("python", "-m", "pip", "install", "-q", f"{wheel}[export]")
        run("dvis", "export", "nuclei", "-o", "nuclei.onnx")
        check_runtime(folder, wheel, "nuclei.onnx")


def check_runtime(folder: str, wheel: Path, model: str) -> None:
    """Masks without torch, by the two commands of docs/guide/deploy.md."""
    run, packages = environment(folder, "runtime"), Path(folder, "packages")
    requirements = ROOT / "requirements-runtime.txt"
    run("python", "-m", "pip", "download", "-q", "-d", packages, "-r", requirements)
    run("python", "-m", "pip", "install", "-q", "--no-index", "--find-links", packages, "-r", requirements)
    run("python", "-m", "pip", "install", "-q", "--no-deps", wheel)
    run("python", "-c", "from importlib.util import find_spec; assert not find_spec('torch')")
    predict(run, folder, model, "runtime_masks")
    size = sum(path.stat().st_size for path in (*packages.iterdir(), wheel)) / 1e6
    installed = sum(path.stat().st_size for path in Path(folder, "runtime").rglob("*") if path.is_file()) / 1e6
    print(
        f"runtime: downloads {size:.0f} MB, {wheel.stat().st_size / 1e6:.0f} of them dvis_d2, installs {installed:.0f}"
    )
    if size > RUNTIME_MB:
        raise SystemExit(f"the runtime is more than {RUNTIME_MB} MB")


def environment(folder: str, name: str) -> Callable[..., None]:
    """Make one; what runs a command of it in the folder."""
    place = Path(folder, name)
    venv.create(place, with_pip=True)
    programs = place / ("Scripts" if os.name == "nt" else "bin")

    def run(*command: object) -> None:
        print("+", shlex.join(map(str, command)), flush=True)
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run([str(programs / str(command[0])), *map(str, command[1:])], cwd=folder, env=clean, check=True)

    return run


def predict(run: Callable[..., None], folder: str, model: str, output: str) -> None:
    image = next((ROOT / "data" / "nuclei" / "images").glob("*.png"))
    run("dvis", "predict", image, "--model", model, "-o", output)
    written = sorted(path.name for path in Path(folder, output).rglob("*.tif"))
    if not written:
        raise SystemExit("dvis predict wrote no label image")
    print("wheel: works, wrote", *written)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
