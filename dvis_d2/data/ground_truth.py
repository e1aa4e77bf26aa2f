"""From the annotations of one image to Detectron2 `Instances` and the instance-id map.

Shapes: (h, w) is the image as stored, (H, W) the image after augmentation, N the number of annotations.
"""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances

from .annotations import to_mask
from .polygons import polygon_points, polygons_to_rle

Window = tuple[slice, slice]  # rows, columns


def build_ground_truth(
    annotations: list[dict[str, Any]],
    transforms: T.Transform,
    input_size: tuple[int, int],
    *,
    num_classes: int,
    file_name: str,
    ignore_mask: np.ndarray | None = None,
) -> tuple[Instances, torch.Tensor]:
    """Apply an image's augmentation to its masks, drop what became invisible, and number the rest.

    The annotations are in Detectron2's format, with any segmentation of :mod:`.annotations`; "bbox" is not used, and
    "category_id" must be below `num_classes` (0: not checked). `ignore_mask`, bool (h, w), belongs to nobody.

    Returns:
        instances: `gt_boxes` (tight around the visible mask, px, x0 y0 x1 y1), `gt_classes` (int64), `gt_masks`
            (`BitMasks`, may overlap), in the order of the annotations, without crowds and empty masks.
        instance_ids: int64 (H, W). k >= 1: row k - 1 of `instances`, smaller masks over larger ones; 0: background;
            -1: in `ignore_mask`, in padding that the augmentation added, or in a crowd and in no instance.

    ValueError where a segmentation is unusable, or a class id is out of range.
    """
    valid = transforms.apply_segmentation(np.ones(input_size, dtype=np.uint8)) == 1
    masks, windows = _transform_masks(annotations, transforms, input_size, valid.shape, file_name)
    if not valid.all():
        masks &= valid
    ids = np.zeros(valid.shape, dtype=np.int64)
    kept: dict[int, Window] = {}  # annotation: tight window
    for index, (annotation, mask) in enumerate(zip(annotations, masks, strict=True)):
        if annotation.get("iscrowd", 0) != 0:
            ids[mask] = -1
        elif (window := _tight_window(mask, windows[index])) is not None:
            class_id = int(annotation["category_id"])
            if class_id < 0 or num_classes and class_id >= num_classes:
                advice = "set MODEL.ROI_HEADS.NUM_CLASSES to the number of classes of the data set"
                found = f"class id {class_id} is out of range 0..{num_classes - 1}; {advice}"
                raise ValueError(f"{file_name}, annotation {index}: {found}")
            kept[index] = window
    rows = list(kept)
    visible = [masks[index][window] for index, window in kept.items()]
    for row in np.argsort([np.count_nonzero(mask) for mask in visible], kind="stable")[::-1]:
        ids[kept[rows[row]]][visible[row]] = row + 1
    if ignore_mask is not None:
        ids[transforms.apply_segmentation(ignore_mask.astype(np.uint8)) != 0] = -1
    ids[~valid] = -1

    classes = [int(annotations[index]["category_id"]) for index in rows]
    boxes = [[xs.start, ys.start, xs.stop, ys.stop] for ys, xs in kept.values()]
    instances = Instances(valid.shape)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(masks if len(rows) == len(masks) else masks[rows]))
    return instances, torch.from_numpy(ids)


def _transform_masks(
    annotations: list[dict], transforms: T.Transform, input_size: tuple, output_size: tuple, file_name: str
) -> tuple[np.ndarray, list[Window]]:
    """bool (N, H, W), and for each mask a window outside of which it is empty."""
    masks = np.zeros((len(annotations), *output_size), dtype=bool)
    windows, bitmaps = [(slice(0, output_size[0]), slice(0, output_size[1]))] * len(annotations), []
    for index, annotation in enumerate(annotations):
        segmentation, where = annotation.get("segmentation"), f"{file_name}, annotation {index}"
        if isinstance(segmentation, list):
            windows[index] = _draw_polygons(polygon_points(segmentation, where), transforms, masks[index], where)
        else:
            bitmaps.append((index, to_mask(segmentation, input_size, where).view(np.uint8)))
    for start in range(0, len(bitmaps), 8):  # eight at once, one in each bit: exact, as nothing is interpolated
        plane = np.zeros(input_size, dtype=np.uint8, order="F")  # the order of decoded RLEs
        for bit, (_, bitmap) in enumerate(bitmaps[start : start + 8]):
            plane |= bitmap << np.uint8(bit)
        plane = transforms.apply_segmentation(np.ascontiguousarray(plane))
        for bit, (index, _) in enumerate(bitmaps[start : start + 8]):
            np.not_equal(plane & np.uint8(1 << bit), 0, out=masks[index])
    return masks, windows


def _draw_polygons(points: list[np.ndarray], transforms: T.Transform, mask: np.ndarray, where: str) -> Window:
    """Draw the union of polygons into `mask`, in COCO's way, and return the window that was written."""
    # Not apply_polygons, which needs shapely to crop: drawing into the window crops as well, and is fast.
    points = [transforms.apply_coords(p) for p in points]
    low = np.floor(np.min([p.min(axis=0) for p in points], axis=0)) - 1
    high = np.ceil(np.max([p.max(axis=0) for p in points], axis=0)) + 1
    (x0, y0), (x1, y1) = (np.clip(corner, 0, mask.shape[::-1]).astype(int) for corner in (low, high))
    if x0 >= x1 or y0 >= y1:
        return slice(0, 0), slice(0, 0)
    window = slice(y0, y1), slice(x0, x1)
    mask[window] = mask_util.decode(polygons_to_rle([p - (x0, y0) for p in points], int(y1 - y0), int(x1 - x0), where))
    return window


def _tight_window(mask: np.ndarray, window: Window) -> Window | None:
    """The smallest window around the set pixels; None if there are none."""
    rows, cols = (np.flatnonzero(mask[window].any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    top, left = window[0].start, window[1].start
    return slice(top + rows[0], top + rows[-1] + 1), slice(left + cols[0], left + cols[-1] + 1)
