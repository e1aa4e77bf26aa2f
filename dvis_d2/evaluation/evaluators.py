"""Which evaluator a data set gets, the packages that it needs, and what Detectron2's evaluators lack."""

import functools
import importlib.util
import itertools
import json
import logging
import os
from collections.abc import Callable, Sequence
from unittest import mock

import detectron2.evaluation as d2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from faster_coco_eval import COCOeval_faster

from ..data.coco_file import CheckedCOCO
from ..data.cropped_masks import CroppedMasks
from .ap_r import APrEvaluator
from .coco_ap import most_detections
from .contour_f1 import ContourF1Evaluator

# evaluator_type of a data set -> modules that reading and evaluating it import, and what to give to pip
PACKAGES = {
    # Its dependency opencv-python would overwrite the headless build; the others are there.
    "lvis": (("lvis",), "--no-deps lvis"),
    "cityscapes_instance": (("cityscapesscripts", "shapely"), "cityscapesscripts shapely"),
}


def build_evaluators(cfg: CfgNode, dataset_name: str, output_folder: str) -> d2.DatasetEvaluator:
    """The evaluator that a data set's metadata ask for as `evaluator_type`: AP^r and contour F1 ("pascal_instance"),
    that of "lvis" or "cityscapes_instance", or COCO's ("coco", or no type). COCO's AP counts all detections, also where
    an image has more than COCO's 100. COCO's and LVIS's predictions are written into the folder.
    NotImplementedError for any other type."""
    require_packages([dataset_name])
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    # The tasks are named so that a model that finds nothing gets a result too.
    tasks = ("bbox", "segm")
    makers: dict[str, Callable[[], d2.DatasetEvaluator]] = {
        "coco": lambda: DVISCOCOEvaluator(dataset_name, tasks, output_dir=output_folder),
        "lvis": lambda: _LVISEvaluator(dataset_name, tasks, output_dir=output_folder),
        "cityscapes_instance": lambda: _CityscapesEvaluator(dataset_name),
        "pascal_instance": lambda: d2.DatasetEvaluators([APrEvaluator(dataset_name), ContourF1Evaluator(dataset_name)]),
    }
    if make := makers.get(evaluator_type):
        return make()
    known = ", ".join(map(repr, makers))
    raise NotImplementedError(f"data set {dataset_name} asks for evaluator {evaluator_type!r}; there are {known}")


def require_packages(dataset_names: Sequence[str]) -> None:
    """ImportError, with the command that helps, if a package is missing that reading or evaluating registered data
    sets needs. To be called before anything expensive starts."""
    for name in dataset_names:
        modules, arguments = PACKAGES.get(MetadataCatalog.get(name).get("evaluator_type"), ((), ""))
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            command = f"python -m pip install {arguments}"
            raise ImportError(f"the data set {name} needs {', '.join(missing)}: {command}", name=missing[0])


class DVISCOCOEvaluator(d2.COCOEvaluator):
    """COCO's, with faster-coco-eval, also of masks inside their boxes (:class:`CroppedMasks`). Without
    `max_dets_per_image` all detections count. For a JSON without annotations (test-dev, Table 4), `evaluate` returns {}
    and writes results without boxes, ``coco_segm_results.json``: the server would take a box's area for the mask's."""

    def __init__(self, *args, **kwargs):
        with mock.patch.object(d2.coco_evaluation, "COCO", CheckedCOCO):  # it has no argument for it
            super().__init__(*args, **kwargs, use_fast_impl=False)
        self._use_fast_impl = True  # use what is named COCOeval_opt, whether or not Detectron2's own was compiled
        self._counts_all = kwargs.get("max_dets_per_image") is None

    def process(self, inputs, outputs):
        for given, output in zip(inputs, outputs, strict=True):
            fields = output["instances"].get_fields() if "instances" in output else {}
            if not isinstance(masks := fields.get("pred_masks"), CroppedMasks):
                super().process([given], [output])
                continue
            others = {name: value for name, value in fields.items() if name != "pred_masks"}
            super().process([given], [{"instances": Instances(masks.image_size, **others)}])
            for result, rle in zip(self._predictions[-1]["instances"], masks.to_rle(), strict=True):
                result["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}

    def _eval_predictions(self, predictions, img_ids=None):
        if self._counts_all:
            results = itertools.chain.from_iterable(image["instances"] for image in predictions)
            self._max_dets_per_image = [1, 10, most_detections(results)]
        super()._eval_predictions(predictions, img_ids)
        if self._do_evaluation and np.isnan(self._results.get("segm", {}).get("AP", 0.0)):
            empty = not any(prediction["instances"] for prediction in predictions)
            why = "the network predicted nothing" if empty else "there is no ground truth, or crowds alone"
            logging.getLogger(__name__).warning("AP is nan because %s", why)

    def evaluate(self, img_ids: list[int] | None = None) -> dict:
        # Detectron2 has no argument for it. Its two classes differ in the limit on the detections only, which this
        # one takes from its params.
        fast = functools.partial(COCOeval_faster, print_function=print)
        with mock.patch.multiple(d2.coco_evaluation, COCOeval_opt=fast, COCOevalMaxDets=fast):
            results = super().evaluate(img_ids)
        if not self._do_evaluation and comm.is_main_process():
            with PathManager.open(os.path.join(self._output_dir, "coco_instances_results.json")) as file:
                entries = [{key: value for key, value in entry.items() if key != "bbox"} for entry in json.load(file)]
            path = os.path.join(self._output_dir, "coco_segm_results.json")
            with PathManager.open(path, "w") as file:
                json.dump(entries, file)
            logging.getLogger(__name__).info("No annotations, so no evaluation. For COCO's evaluation server: %s", path)
        return results


# Names that NumPy took out, which lvis 0.5.3 and cityscapesscripts 2.3.0 use: there while an evaluation runs only. And
# the latter cannot write NumPy 2.4's integers into its matches.json (which it would leave in the working directory).
_with_old_names = mock.patch.multiple(np, create=True, float=float, in1d=lambda a, b: np.isin(np.ravel(a), b))
_SCRIPT = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
_without_matches = mock.patch(f"{_SCRIPT}.writeDict2JSON", lambda data, path: None)


class _LVISEvaluator(d2.LVISEvaluator):
    evaluate = _with_old_names(d2.LVISEvaluator.evaluate)


class _CityscapesEvaluator(d2.CityscapesInstanceEvaluator):
    evaluate = _without_matches(_with_old_names(d2.CityscapesInstanceEvaluator.evaluate))

    def process(self, inputs, outputs):
        for output in outputs:
            if isinstance(masks := output["instances"].pred_masks, CroppedMasks):
                output["instances"].pred_masks = torch.from_numpy(masks.numpy())
        super().process(inputs, outputs)
