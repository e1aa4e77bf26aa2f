"""Deep Variational Instance Segmentation (Yuan, Chen, Li, 2020) as a Detectron2 plugin.

Importing the package registers the meta-architecture ``DVIS``, the proposal generator ``MeanShiftProposer``, the ROI
heads ``DVISROIHeads`` and the built-in data sets. Without Detectron2, ``dvis_d2.modeling.losses`` and
``dvis_d2.modeling.mean_shift`` still work.
"""

import importlib
import logging
import os
import warnings

# Before torch is loaded: OpenMP's threads, which spin while they wait, make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from ._detectron2 import has_detectron2, require_detectron2  # noqa: E402

__version__ = "0.3.0"

if has_detectron2():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Detectron2 scripts functions, which torch is giving up
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # and asks for tracing by an old name
        require_detectron2()
        from . import data, modeling
        from .config import add_dvis_config

    def __getattr__(name: str):
        if name in ("load", "train", "Model"):  # not imported before they are used: they need the engine
            return getattr(importlib.import_module(".api", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
else:

    def __getattr__(name: str):
        if name in ("add_dvis_config", "data", "engine", "load", "train", "Model"):
            require_detectron2()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
