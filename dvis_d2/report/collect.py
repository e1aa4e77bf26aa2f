"""A model on annotated images: what it found, and what became of every object on the way."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..data.annotations import encode_masks
from ..data.image_io import read_image
from ..evaluation.error_kinds import Errors, ImageRecord, find_errors, label_map_cause
from ..evaluation.mask_evaluator import GroundTruth, read_ground_truth
from ..inference.colors import label_colors
from ..inference.tiled_network import TiledInference
from ..modeling.meta_arch import DVIS

CLOSE_UP = 150  # pixels of a picture's side
PICTURES = 3  # of each kind of error
SHOWN_SCORE = 0.5  # of what is drawn, and of the confusion
FOUND, TRUE, WRONG = (86, 180, 233), (240, 228, 66), (255, 255, 255)  # colors of outlines


@dataclass
class Judged:
    file_name: str
    record: ImageRecord
    errors: Errors


@dataclass
class Picture:
    """An error: the image around it, with the outlines of all that is annotated and found, and the label map."""

    file_name: str
    kind: str
    area: int
    image: np.ndarray  # uint8 (h, w, 3) in RGB
    label_map: np.ndarray | None  # the same part


def judge_images(
    cfg: CfgNode,
    model: DVIS,
    statistics: Any = None,
    *,
    num_images: int | None = None,
    progress: Callable[[Sequence], Any] = lambda entries: entries,
) -> tuple[list[Judged], dict[str, list[Picture]]]:
    """Run a model, in evaluation mode, on evenly chosen images of ``DATASETS.TEST[0]``, by default all; and pictures of
    its errors, of each kind those of the largest objects. Objects in images that are read in tiles have no cause."""
    entries = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    if num_images is not None and len(entries) > num_images:
        entries = [entries[i] for i in np.linspace(0, len(entries) - 1, num_images).round().astype(int)]
    inference = TiledInference(cfg, model, statistics)
    judged: list[Judged] = []
    pictures: dict[str, list[Picture]] = {}
    for entry in progress(entries):
        truth = read_ground_truth(entry)
        image = read_image(entry["file_name"], cfg.INPUT.FORMAT, normalize=cfg.INPUT.NORMALIZE)
        output = inference.predict(image, label_map=True)
        found = output["instances"]
        record = ImageRecord(
            truth.void.shape,
            found.pred_masks.to_rle(),
            found.pred_classes.tolist(),
            found.scores.tolist(),
            encode_masks(truth.masks) if len(truth.masks) else [],
            truth.classes.tolist(),
            truth.ignored.tolist(),
        )
        if "label_map" in output:
            record.causes = find_causes(model, output, truth)
        errors = find_errors(record)
        judged.append(Judged(entry["file_name"], record, errors))
        colors = image if cfg.INPUT.FORMAT == "RGB" else image[:, :, ::-1]
        _add_pictures(pictures, entry["file_name"], colors, output, truth, errors)
    return judged, pictures


def find_causes(model: DVIS, output: dict[str, Any], truth: GroundTruth) -> list[str]:
    """:func:`label_map_cause` of every object, on the map's grid, of whose cells an object covers shares."""
    labels, proposals = output["label_map"].cpu().numpy(), output["proposals"].proposal_masks.cpu().numpy()
    height, width = labels.shape
    shares = [cv2.resize(m.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) for m in truth.masks]
    cells = np.array(shares, np.float32).reshape(-1, height * width)
    area = cells.sum(1)
    foreground = cells @ (labels.reshape(-1) > model.proposal_generator.grouping["foreground_threshold"])
    flat = proposals.reshape(len(proposals), height * width).astype(np.float32)
    return label_map_cause(foreground / np.maximum(area, 1e-9), flat @ cells.T, (flat.sum(1), area))


def _add_pictures(
    pictures, file_name: str, image: np.ndarray, output: dict, truth: GroundTruth, errors: Errors
) -> None:
    masks = output["instances"].pred_masks
    wrong = [(kind, truth.masks[g]) for g, kind in enumerate(errors.objects) if kind]
    wrong += [("duplicate", masks[d]) for d, kind in enumerate(errors.found) if kind == "Dupe"]
    drawn = None
    for kind, mask in wrong:
        own, area = pictures.setdefault(kind, []), int(mask.sum())
        if len(own) == PICTURES and area <= own[-1].area:
            continue
        if drawn is None:
            drawn = _outlines(image, truth.masks, TRUE)
            likely = np.flatnonzero(output["instances"].scores.numpy() >= SHOWN_SCORE)
            drawn = _outlines(drawn, [masks[d] for d in likely], FOUND)
        place = _around(mask)
        label_map = None
        if "label_map" in output:
            labels = output["label_map"].cpu().numpy()
            colors = label_colors(labels, max(1.0, float(labels.max(initial=0)))).astype(np.uint8)
            label_map = _square(cv2.resize(colors, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)[place])
        own.append(Picture(file_name, kind, area, _square(_outlines(drawn, [mask], WRONG)[place]), label_map))
        own.sort(key=lambda picture: -picture.area)
        del own[PICTURES:]


def _outlines(image: np.ndarray, masks: Iterable[np.ndarray], color: tuple[int, int, int]) -> np.ndarray:
    canvas = np.ascontiguousarray(image).copy()
    for mask in masks:
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, color, 1)
    return canvas


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """The square around a mask, half as large again, inside the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = int(1.5 * max(np.ptp(rows), np.ptp(columns))) + 12
    spans = []
    for ends, length in ((rows, mask.shape[0]), (columns, mask.shape[1])):
        start = int(np.clip((ends[0] + ends[-1] - side) // 2, 0, max(0, length - side)))
        spans.append(slice(start, start + side))
    return spans[0], spans[1]


def _square(part: np.ndarray) -> np.ndarray:
    """Enlarged or shrunk so that its longer side is `CLOSE_UP`."""
    scale = CLOSE_UP / max(part.shape[:2])
    size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
    return cv2.resize(part, size, interpolation=cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA)
