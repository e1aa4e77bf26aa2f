"""Average recall of masks without classes, apart for classes seen in training and others (the paper's supplement 5)."""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Sequence

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO

from dvis_d2.data import DatasetError
from dvis_d2.data.annotations import encode_masks

from .class_agnostic import RECALLS, average_recall, class_agnostic_ap, read_coco
from .tables import markdown_table
from .unseen import find_classes

GROUPS = ("unseen", "seen")
logger = logging.getLogger(__name__)


class UnseenEvaluator(DatasetEvaluator):
    """COCO's average recall on the objects of classes that training has seen, and on those of the others.

    Classes of detections are not read. For each group of classes the objects of the other group are taken out of the
    ground truth, not out of the detections: one that finds an object of the other group uses up a place among the 1, 10
    or 100. Crowds are no objects to be found. Masks are encoded where they are predicted and gathered, so it runs in
    any number of processes. Only images that were processed count.
    """

    def __init__(self, dataset_name: str, seen_classes: Sequence[str] = ()):
        """
        Args:
            dataset_name: a registered data set of COCO's format, with `json_file` in its metadata.
            seen_classes: names; () for all.

        Raises:
            dvis_d2.data.DatasetError: there is no JSON, or no such class.
        """
        json_file = MetadataCatalog.get(dataset_name).get("json_file")
        if not json_file:
            raise DatasetError(
                f"{dataset_name} has no annotations in COCO's format, which average recall by seen and unseen classes "
                "needs: make a file of them with `dvis convert`"
            )
        self.dataset_name = dataset_name
        self._coco = read_coco(PathManager.get_local_path(json_file))
        categories = self._coco.loadCats(self._coco.getCatIds())
        seen = find_classes(seen_classes, [c["name"] for c in categories], dataset_name=dataset_name)
        self._seen_ids = {c["id"] for k, c in enumerate(categories) if k in seen or not seen_classes}
        self.reset()

    def reset(self) -> None:
        self._results: list[dict] = []
        self._image_ids: list[int] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances": `pred_masks` (bool (N, h, w), at the image's size) and `scores` (N,).
        """
        for given, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            self._image_ids.append(given["image_id"])
            masks = encode_masks(instances.pred_masks)
            for rle, score in zip(masks, instances.scores.tolist(), strict=True):
                self._results.append({"image_id": given["image_id"], "segmentation": rle, "score": score})

    def evaluate(self) -> OrderedDict:
        """Gathers from all processes, so all must call it.

        Returns:
            {"recall": {"unseen/AR@1", "unseen/AR@10", "unseen/AR@100", "unseen/AR50@100", "unseen/AR75@100", and the
            same with "seen/"}, "segm": {"AP", "AP50", "AP75"}, all objects as one class}, in percent, NaN where there
            are no objects; empty in other processes than the first.
        """
        gathered = comm.gather((self._image_ids, self._results), dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        image_ids = list(itertools.chain.from_iterable(ids for ids, _ in gathered))
        results = list(itertools.chain.from_iterable(results for _, results in gathered))
        if len(image_ids) != len(self._coco.imgs):
            logger.warning("recall in %d images, %s has %d", len(image_ids), self.dataset_name, len(self._coco.imgs))
        recall: dict[str, float] = {}
        for group in GROUPS:
            objects = self._objects_of(group)
            figures = average_recall(objects, results, image_ids)
            recall |= {f"{group}/{name}": value for name, value in figures.items()}
        rows = [[group, *(f"{recall[f'{group}/{name}']:.1f}" for name in RECALLS)] for group in GROUPS]
        logger.info("Average recall on %s:\n%s", self.dataset_name, markdown_table(rows, ["classes", *RECALLS]))
        return OrderedDict(recall=recall, segm=class_agnostic_ap(self._coco, results, image_ids))

    def _objects_of(self, group: str) -> COCO:
        """The ground truth with the objects of one group only."""
        kept = [
            annotation
            for annotation in self._coco.dataset["annotations"]
            if (annotation["category_id"] in self._seen_ids) == (group == "seen") and not annotation.get("iscrowd", 0)
        ]
        return read_coco(self._coco.dataset | {"annotations": kept})
