"""Detectron2's LVIS and Cityscapes evaluators with a NumPy of today.

Their packages use names that NumPy took out; the names exist while an evaluation runs, and for nobody else.
"""

from unittest import mock

import numpy as np
from detectron2.evaluation import CityscapesInstanceEvaluator, LVISEvaluator


class NumPy2LVISEvaluator(LVISEvaluator):
    """Detectron2's evaluator; lvis 0.5.3 needs ``np.float``, which NumPy 1.24 took out."""

    def evaluate(self) -> dict | None:
        """As :meth:`LVISEvaluator.evaluate`: {"bbox": ..., "segm": {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr",
        "APc", "APf"}} in percent; None in other processes than the first."""
        with mock.patch.object(np, "float", float, create=True):
            return super().evaluate()


class NumPy2CityscapesEvaluator(CityscapesInstanceEvaluator):
    """Detectron2's evaluator; cityscapesscripts 2.3.0 needs ``np.in1d``, which NumPy 2.4 took out, and cannot write
    NumPy 2.4's integers into its ``matches.json`` (which it would leave in the working directory)."""

    def evaluate(self) -> dict | None:
        """As :meth:`CityscapesInstanceEvaluator.evaluate`: {"segm": {"AP", "AP50"}} in percent; None in other processes
        than the first."""
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts

        with (
            mock.patch.object(np, "in1d", lambda a, b: np.isin(np.ravel(a), b), create=True),
            mock.patch.object(scripts, "writeDict2JSON", lambda data, path: None),
        ):
            return super().evaluate()
