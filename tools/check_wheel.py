#!/usr/bin/env python3
"""See that the wheel works as a stranger installs it: `pip install` into a fresh environment, the step that installs
Detectron2, and masks in a file, in a folder that knows nothing of the checkout. Uses the standard library alone."""

import os
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    image = next((ROOT / "data" / "nuclei" / "images").glob("*.png"))
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder, "env")
        venv.create(environment, with_pip=True)
        programs = environment / ("Scripts" if os.name == "nt" else "bin")

        def run(*command: object) -> None:
            print("+", shlex.join(map(str, command)), flush=True)
            subprocess.run([str(programs / str(command[0])), *map(str, command[1:])], cwd=folder, check=True)

        run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
        run("python", "-m", "pip", "install", "-q", next(Path(folder).glob("*.whl")))
        run("python", "-m", "dvis_d2.install_detectron2")
        run("dvis", "--version")
        run("dvis", "predict", image, "--model", "nuclei", "-o", "masks")
        written = sorted(path.name for path in Path(folder, "masks").rglob("*.tif"))
        if not written:
            raise SystemExit("dvis predict wrote no label image")
        print("wheel: works, wrote", *written)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
