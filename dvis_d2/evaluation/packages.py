"""The packages that Detectron2 needs for some data sets, and does not install."""

import importlib.util
from collections.abc import Sequence

from detectron2.data import MetadataCatalog

# evaluator_type of a data set -> modules that reading and evaluating it import, and what to give to pip
PACKAGES = {
    # Its dependency opencv-python would overwrite the headless build; the others are there.
    "lvis": (("lvis",), "--no-deps lvis"),
    "cityscapes_instance": (("cityscapesscripts", "shapely"), "cityscapesscripts shapely"),
}


def require_packages(dataset_names: Sequence[str]) -> None:
    """See to it that registered data sets can be read and evaluated, before anything expensive starts.

    Raises:
        ImportError: a package is missing. The message names the data set and the command that installs it.
    """
    for name in dataset_names:
        modules, arguments = PACKAGES.get(MetadataCatalog.get(name).get("evaluator_type"), ((), ""))
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            raise ImportError(
                f"the data set {name} needs {', '.join(missing)}: python -m pip install {arguments}", name=missing[0]
            )
