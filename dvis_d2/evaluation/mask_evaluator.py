"""The common part of evaluators that judge masks image by image. N objects, D detections, (h, w) the stored image."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..data.annotations import read_annotations, to_mask


@dataclass(frozen=True)
class GroundTruth:
    masks: np.ndarray  # bool (N, h, w), without void pixels
    classes: np.ndarray  # int64 (N,)
    ignored: np.ndarray  # bool (N,): a crowd, or "difficult", so it need not be found
    crowd: np.ndarray  # bool (N,)
    void: np.ndarray  # bool (h, w)


def read_ground_truth(dataset_dict: dict[str, Any]) -> GroundTruth:
    """Of a dataset dict; masks that lie in void pixels altogether are left out. ValueError or FileNotFoundError, which
    name it, if an annotation or a label file cannot be used."""
    size, file_name = (dataset_dict["height"], dataset_dict["width"]), dataset_dict["file_name"]
    annotations, ignore_mask = read_annotations(dataset_dict)
    void = np.zeros(size, dtype=bool) if ignore_mask is None else ignore_mask
    drawn = [to_mask(a.get("segmentation"), size, f"{file_name}, annotation {i}") for i, a in enumerate(annotations)]
    masks = np.array(drawn, dtype=bool).reshape(-1, *size) & ~void
    rows = [(a["category_id"], a.get("iscrowd", 0) != 0, a.get("difficult", 0) != 0) for a in annotations]
    visible = masks.any(axis=(1, 2))
    classes, crowd, difficult = np.array(rows, dtype=np.int64).reshape(-1, 3)[visible].T
    return GroundTruth(masks[visible], classes, (crowd | difficult) != 0, crowd != 0, void)


class MaskEvaluator(DatasetEvaluator):
    """Judges every image where it is predicted and gathers the small records of that, so it runs in any number of
    processes. Only images that were processed count. Subclasses say how to `judge` and how to `summarize`."""

    def __init__(self, dataset_name: str):
        """Of a registered data set that has `thing_classes`. ValueError if an image id occurs twice."""
        self.dataset_name = dataset_name
        self.class_names: list[str] = MetadataCatalog.get(dataset_name).thing_classes
        entries = DatasetCatalog.get(dataset_name)
        self._entries = {entry["image_id"]: (position, entry) for position, entry in enumerate(entries)}
        if len(self._entries) < len(entries):
            raise ValueError(f"{dataset_name}: image ids occur twice; give every image its own")
        self.reset()

    def reset(self) -> None:
        self._records: list[tuple[int, Any]] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Judge "instances" with `pred_masks` (bool (D, h, w)), `scores` and `pred_classes`. ValueError if they do not
        fit the image or the data set, or the ground truth is unusable."""
        for given, output in zip(inputs, outputs, strict=True):
            position, entry = self._entries[given["image_id"]]
            truth, instances = read_ground_truth(entry), output["instances"].to("cpu")
            masks = instances.pred_masks.numpy().astype(bool)
            scores = instances.scores.numpy().astype(np.float64)
            classes = instances.pred_classes.numpy().astype(np.int64)
            where, size, num_classes = entry["file_name"], truth.void.shape, len(self.class_names)
            if masks.shape[1:] != size:
                raise ValueError(f"{where}: predicted masks have size {masks.shape[1:]}, the ground truth has {size}")
            if len(classes) and not 0 <= classes.min() <= classes.max() < num_classes:
                advice = "set MODEL.ROI_HEADS.NUM_CLASSES to that, or evaluate on the data set of the training"
                found = f"predicted class {classes.max()}, but the data set has {num_classes} classes"
                raise ValueError(f"{where}: {found}; {advice}")
            self._records.append((position, self.judge(masks, scores, classes, truth)))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The summary in the first process, {} in the others. Gathers from all, so all must call it."""
        gathered = comm.gather(self._records, dst=0)
        if not comm.is_main_process():
            return {}
        # In the data set's order, so that neither equal scores nor rounding depend on the number of processes.
        records = sorted(itertools.chain(*gathered), key=lambda record: record[0])
        return self.summarize([record for _, record in records])

    def judge(self, masks: np.ndarray, scores: np.ndarray, classes: np.ndarray, truth: GroundTruth) -> Any:
        """What to keep of one image: of its bool (D, h, w), float64 (D,) and int64 (D,) detections."""
        raise NotImplementedError

    def summarize(self, records: list[Any]) -> dict[str, dict[str, float]]:
        """{task: {metric: value}} of all images, which come in the data set's order."""
        raise NotImplementedError
