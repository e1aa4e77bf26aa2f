"""Package description with ranges. requirements.txt has the tested versions; `make install` takes those."""

from setuptools import find_packages, setup

INSTALL_REQUIRES = [
    "torch>=2.4",
    "torchvision>=0.19",
    "numpy>=1.24",
    "scipy>=1.10",
    "pillow>=9.4",
    "filelock>=3.8",
    "tqdm>=4.60",
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
    # Not in INSTALL_REQUIRES: opencv-python, -headless and -contrib all own the folder cv2, so asking for one
    # would overwrite the other that a user of Detectron2 has. Without any, dvis_d2 says which command to run.
    "opencv": ["opencv-python-headless>=4.6"],
    "dev": [
        "pytest>=7.4",
        "pytest-timeout>=2.1",
        "hypothesis>=6.60",
        "scikit-learn>=1.2",
        "ruff>=0.6",
    ],
}

setup(
    name="dvis_d2",
    version="0.1.0",
    description="Deep Variational Instance Segmentation as a Detectron2 plugin",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["dvis_d2", "dvis_d2.*"]),
    # Detectron2 is not listed: it is not on PyPI under its name. dvis_d2 names the command that installs it.
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
