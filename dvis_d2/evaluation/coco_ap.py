"""COCO's average precision of masks on some images, by faster-coco-eval."""

import contextlib
import copy
import io
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from faster_coco_eval import COCOeval_faster
from pycocotools.coco import COCO

from ..data.coco_file import CheckedCOCO
from ..data.to_coco import to_coco


def evaluate_coco(
    coco: COCO,
    results: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int] | None = None,
    *,
    use_cats: bool = True,
    max_dets: Sequence[int] | None = None,
    areas: tuple[float, float] = (0, 1e10),
) -> COCOeval_faster:
    """Compare masks with the ground truth, over objects of all sizes, or with areas in pixels from one to another.

    Results are dicts with "image_id", "category_id", "segmentation" (RLE at the image's size) and "score"; further
    keys, and results on other images than `image_ids` (None: all), do not count. Without `use_cats` any mask may be any
    object, and "category_id" is not read. In each image and class `max_dets` masks of the highest scores count, all by
    default.

    The evaluator comes back accumulated, with the sorted `image_ids` as ``params.imgIds``.
    """
    wanted = coco.imgs.keys() if image_ids is None else set(image_ids)
    a_class = min(coco.cats, default=None)
    counted = [
        {key: result[key] for key in ("image_id", "segmentation", "score")}
        | {"category_id": result["category_id"] if use_cats else a_class}
        for result in results
        if result["image_id"] in wanted
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # progress
        evaluator = COCOeval_faster(coco, coco.loadRes(counted) if counted else COCO(), "segm", separate_eval=True)
    evaluator.params.imgIds = sorted(wanted)
    evaluator.params.useCats = int(use_cats)
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [list(areas)], ["all"]
    evaluator.params.maxDets = list(max_dets or [most_detections(counted)])
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def most_detections(results: Iterable[Mapping[str, Any]]) -> int:
    """A limit on the detections an image that cuts none of these results: their largest number, at least COCO's 100."""
    return max([100, *Counter(result["image_id"] for result in results).values()])


def average_precision(
    evaluator: COCOeval_faster, *, iou: float | None = None, sample: Sequence[int] | None = None
) -> float:
    """AP in 0..100 at one IoU or (None) over .5, .55, ..., .95: the mean over the categories that occur; 0 where none
    does. A bootstrap sample holds positions among the evaluated images, as many as there are, which may repeat. The
    evaluator is one with one limit on the detections."""
    if sample is not None:
        matched, count = evaluator._evalImgs_cpp, len(evaluator.params.imgIds)
        if len(sample) != count:
            raise ValueError(f"a sample of {len(sample)} images out of {count}: draw {count}, they may repeat")
        evaluator = copy.copy(evaluator)
        starts = range(0, len(matched), count)  # of each category
        evaluator._evalImgs_cpp = [matched[start + i] for start in starts for i in sample]
        evaluator.accumulate()
    precision = evaluator.eval["precision"]
    if iou is not None:
        precision = precision[np.isclose(evaluator.params.iouThrs, iou)]
    precision = precision[precision > -1]
    return 100 * float(precision.mean()) if precision.size else 0.0


class CocoScorer:
    """Detections in a registered data set for :func:`average_precision`, as often as one likes."""

    def __init__(self, dataset_name: str):
        """The ground truth is the data set's ``json_file``, or else its dicts, with ignored pixels as crowds."""
        metadata = MetadataCatalog.get(dataset_name)
        with contextlib.redirect_stdout(io.StringIO()):  # progress
            self.truth = CheckedCOCO(metadata.get("json_file"))
            if not self.truth.dataset:
                self.truth.dataset = to_coco(dataset_name, ignore_as_crowd=True)
                self.truth.createIndex()
        # from the data set's to those of `truth`; image ids there are integers
        own_id = "id" if hasattr(metadata, "json_file") else "original_id"
        self._image_ids = {image[own_id]: image["id"] for image in self.truth.dataset["images"]}
        self._category_ids = sorted(self.truth.cats)

    def evaluate(self, detections: Sequence[list[dict]], image_ids: Sequence[Hashable]) -> COCOeval_faster:
        """:func:`evaluate_coco` of :meth:`StoredPredictions.detections` on the data set's `image_ids`; detections on
        others are left out."""
        results = [
            {**d, "image_id": self._image_ids[d["image_id"]], "category_id": self._category_ids[d["category_id"]]}
            for of_image in detections
            for d in of_image
        ]
        return evaluate_coco(self.truth, results, [self._image_ids[i] for i in image_ids])
