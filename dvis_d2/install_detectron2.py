"""``python -m dvis_d2.install_detectron2``: the one step that ``pip install dvis_d2`` cannot do."""

import subprocess
import sys

from ._detectron2 import BUILD, build_arguments, has_detectron2, require_detectron2


def main() -> None:
    """Install a tested build of Detectron2 into the running Python's environment if it has none; then see that the one
    it has works, SystemExit with what to do if not."""
    if not has_detectron2():
        command = [sys.executable, "-m", "pip", *build_arguments()]
        if subprocess.run(command).returncode:
            raise SystemExit(f"{BUILD} could not be installed\nread what pip says above; it runs: {' '.join(command)}")
    try:
        require_detectron2()
    except ImportError as error:
        raise SystemExit(str(error)) from None
    print("Detectron2 is installed and works")


if __name__ == "__main__":
    main()
