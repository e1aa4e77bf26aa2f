"""COCO's evaluation, and the file for its evaluation server where the annotations are secret (test-dev, Table 4)."""

from __future__ import annotations

import json
import logging
import os

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

RESULTS = "coco_instances_results.json"  # written by COCOEvaluator
SUBMISSION = "coco_segm_results.json"
logger = logging.getLogger(__name__)


class COCOSubmissionEvaluator(COCOEvaluator):
    """Detectron2's evaluator, which for a JSON without annotations also writes ``coco_segm_results.json``.

    That is ``coco_instances_results.json`` without the boxes: a list of {"image_id", "category_id" (the data set's),
    "segmentation" (RLE at the image's size), "score"}. Where an entry has a box, COCO's code takes the box's area for
    the mask's, and the server's AP of small, medium and large objects would be wrong.
    """

    def evaluate(self, img_ids: list[int] | None = None) -> dict:
        """As :meth:`COCOEvaluator.evaluate`; {} without annotations. Then the evaluator needs its ``output_dir``."""
        results = super().evaluate(img_ids)
        if not self._do_evaluation and comm.is_main_process():
            path = os.path.join(self._output_dir, SUBMISSION)
            write_submission(os.path.join(self._output_dir, RESULTS), path)
            logger.info("No annotations, so no evaluation. For COCO's evaluation server: %s", path)
        return results


def write_submission(results_file: str, output_file: str) -> None:
    """Copy a JSON of COCO results without the boxes."""
    with PathManager.open(results_file) as file:
        results = json.load(file)
    for result in results:
        result.pop("bbox", None)
    with PathManager.open(output_file, "w") as file:
        json.dump(results, file)
