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
from .cropped_masks import tight_box
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
    ids = np.zeros(valid.shape, dtype=np.int64)
    kept: list[tuple[int, Window, np.ndarray]] = []  # class, tight window, mask in it
    drawn = _transform_masks(annotations, transforms, input_size, valid.shape, file_name)
    for index, (annotation, (window, mask)) in enumerate(zip(annotations, drawn, strict=True)):
        mask = mask & valid[window]
        if annotation.get("iscrowd", 0) != 0:
            ids[window][mask] = -1
        elif any(box := tight_box(mask)):
            class_id = int(annotation["category_id"])
            if class_id < 0 or num_classes and class_id >= num_classes:
                advice = "set MODEL.ROI_HEADS.NUM_CLASSES to the number of classes of the data set"
                found = f"class id {class_id} is out of range 0..{num_classes - 1}; {advice}"
                raise ValueError(f"{file_name}, annotation {index}: {found}")
            (x0, y0, x1, y1), top, left = box, window[0].start, window[1].start
            tight = slice(top + y0, top + y1), slice(left + x0, left + x1)
            kept.append((class_id, tight, mask[y0:y1, x0:x1]))
    masks = np.zeros((len(kept), *valid.shape), dtype=bool)
    for row in np.argsort([np.count_nonzero(mask) for _, _, mask in kept], kind="stable")[::-1]:
        _, window, mask = kept[row]
        masks[row][window] = mask
        ids[window][mask] = row + 1
    if ignore_mask is not None:
        ids[transforms.apply_segmentation(ignore_mask.astype(np.uint8)) != 0] = -1
    ids[~valid] = -1

    boxes = [[xs.start, ys.start, xs.stop, ys.stop] for _, (ys, xs), _ in kept]
    instances = Instances(valid.shape)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor([class_id for class_id, _, _ in kept], dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return instances, torch.from_numpy(ids)


def _transform_masks(
    annotations: list[dict], transforms: T.Transform, input_size: tuple, output_size: tuple, file_name: str
) -> list[tuple[Window, np.ndarray]]:
    """Of each annotation a window outside of which its mask is empty, and the mask in it, bool."""
    drawn: dict[int, tuple[Window, np.ndarray]] = {}
    bitmaps = []
    for index, annotation in enumerate(annotations):
        segmentation, where = annotation.get("segmentation"), f"{file_name}, annotation {index}"
        if isinstance(segmentation, list):
            drawn[index] = _draw_polygons(polygon_points(segmentation, where), transforms, output_size, where)
        else:
            bitmaps.append((index, to_mask(segmentation, input_size, where).view(np.uint8)))
    for start in range(0, len(bitmaps), 8):  # eight at once, one in each bit: exact, as nothing is interpolated
        plane = np.zeros(input_size, dtype=np.uint8, order="F")  # the order of decoded RLEs
        for bit, (_, bitmap) in enumerate(bitmaps[start : start + 8]):
            plane |= bitmap << np.uint8(bit)
        plane = transforms.apply_segmentation(np.ascontiguousarray(plane))
        for bit, (index, _) in enumerate(bitmaps[start : start + 8]):
            drawn[index] = (slice(0, output_size[0]), slice(0, output_size[1])), plane & np.uint8(1 << bit) != 0
    return [drawn[index] for index in range(len(annotations))]


def _draw_polygons(
    points: list[np.ndarray], transforms: T.Transform, size: tuple, where: str
) -> tuple[Window, np.ndarray]:
    """The union of polygons, drawn in COCO's way in the window around them."""
    # Not apply_polygons, which needs shapely to crop: drawing into the window crops as well, and is fast.
    points = [transforms.apply_coords(p) for p in points]
    low = np.floor(np.min([p.min(axis=0) for p in points], axis=0)) - 1
    high = np.ceil(np.max([p.max(axis=0) for p in points], axis=0)) + 1
    (x0, y0), (x1, y1) = (np.clip(corner, 0, size[::-1]).astype(int).tolist() for corner in (low, high))
    window = slice(y0, y1), slice(x0, x1)
    if x0 == x1 or y0 == y1:
        return window, np.zeros((y1 - y0, x1 - x0), dtype=bool)
    return window, mask_util.decode(polygons_to_rle([p - (x0, y0) for p in points], y1 - y0, x1 - x0, where)).view(bool)
