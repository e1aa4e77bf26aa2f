"""From the annotations of one image to Detectron2 `Instances` and the instance-id map.

Shapes: (h, w) is the image as stored, (H, W) the image after augmentation, N the number of annotations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances, polygons_to_bitmask

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

    Args:
        annotations: in Detectron2's format. "segmentation" is a list of polygons (x, y, x, y, ... in px of
            the stored image), a COCO RLE or an array (h, w); kinds may be mixed. "bbox" is not used.
        transforms: what was applied to the image.
        input_size: (h, w).
        num_classes: "category_id" must be below it; 0 switches the check off.
        file_name: of the image, for error messages.
        ignore_mask: bool (h, w), pixels that belong to nobody (PASCAL's 255).

    Returns:
        instances: `gt_boxes` (tight around the visible mask, px, x0 y0 x1 y1), `gt_classes` (int64),
            `gt_masks` (`BitMasks`), in the order of the annotations, without crowds and without empty masks.
            `gt_masks` may overlap.
        instance_ids: int64 (H, W). k >= 1: row k - 1 of `instances`, smaller masks over larger ones; -1: in
            `ignore_mask`, in padding that the augmentation added, or in a crowd and in no instance; 0:
            background.

    Raises:
        ValueError: a segmentation is missing or unusable, or a class id is out of range.
    """
    valid = transforms.apply_segmentation(np.ones(input_size, dtype=np.uint8)) == 1
    masks, windows = _transform_masks(annotations, transforms, input_size, valid.shape, file_name)
    if not valid.all():
        masks &= valid
    windows = [_tight_window(mask, window) for mask, window in zip(masks, windows, strict=True)]

    ids = np.zeros(valid.shape, dtype=np.int64)
    crowd = np.array([annotation.get("iscrowd", 0) != 0 for annotation in annotations], dtype=bool)
    for index in np.flatnonzero(crowd):
        ids[masks[index]] = -1
    kept = [i for i in np.flatnonzero(~crowd) if windows[i] is not None]
    kept_windows = [windows[i] for i in kept]
    areas = [np.count_nonzero(masks[i][w]) for i, w in zip(kept, kept_windows, strict=True)]
    for row in np.argsort(areas, kind="stable")[::-1]:
        ids[kept_windows[row]][masks[kept[row]][kept_windows[row]]] = row + 1
    if ignore_mask is not None:
        ids[transforms.apply_segmentation(ignore_mask.astype(np.uint8)) != 0] = -1
    ids[~valid] = -1

    instances = Instances(valid.shape)
    boxes = [[cols.start, rows.start, cols.stop, rows.stop] for rows, cols in kept_windows]
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    classes = [_class_id(annotations[i], i, num_classes, file_name) for i in kept]
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.from_numpy(masks if len(kept) == len(masks) else masks[kept]))
    return instances, torch.from_numpy(ids)


def decode_rle(rle: dict, where: str) -> np.ndarray:
    """uint8 (h, w) of a COCO RLE, compressed or not. ValueError, naming `where`, if it is broken."""
    try:
        if isinstance(rle["counts"], list):
            rle = mask_util.frPyObjects(rle, *rle["size"])
        return mask_util.decode(rle)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: its RLE cannot be decoded ({error!r}); write the mask again") from error


def _transform_masks(
    annotations: list[dict], transforms: T.Transform, input_size: tuple, output_size: tuple, file_name: str
) -> tuple[np.ndarray, list[Window]]:
    """bool (N, H, W), and for each mask a window outside of which it is empty."""
    masks = np.zeros((len(annotations), *output_size), dtype=bool)
    windows = [(slice(0, output_size[0]), slice(0, output_size[1]))] * len(annotations)
    bitmaps: list[tuple[int, np.ndarray]] = []
    for index, annotation in enumerate(annotations):
        where = f"{file_name}, annotation {index}"
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list) and segmentation:
            windows[index] = _draw_polygons(segmentation, transforms, masks[index], where)
        elif isinstance(segmentation, dict | np.ndarray):
            bitmap = decode_rle(segmentation, where) if isinstance(segmentation, dict) else segmentation != 0
            if bitmap.shape != input_size:
                raise ValueError(f"{where}: its mask has shape {bitmap.shape}, the image {input_size}")
            bitmaps.append((index, bitmap))
            if len(bitmaps) == 8:
                _transform_bitmaps(bitmaps, transforms, masks)
                bitmaps = []
        else:
            raise ValueError(f"{where}: it has no segmentation; add a polygon or an RLE, or take it out")
    _transform_bitmaps(bitmaps, transforms, masks)
    return masks, windows


def _transform_bitmaps(bitmaps: list[tuple[int, np.ndarray]], transforms: T.Transform, masks: np.ndarray) -> None:
    """Transform up to eight bitmaps at once, one in each bit, which is eight times cheaper. That is exact
    because segmentations are never interpolated."""
    if not bitmaps:
        return
    plane = np.zeros(bitmaps[0][1].shape, dtype=np.uint8, order="F")  # the order of decoded RLEs
    for bit, (_, bitmap) in enumerate(bitmaps):
        plane |= bitmap.astype(np.uint8, copy=False) << np.uint8(bit)
    plane = transforms.apply_segmentation(np.ascontiguousarray(plane))
    for bit, (index, _) in enumerate(bitmaps):
        np.not_equal(plane & np.uint8(1 << bit), 0, out=masks[index])


def _draw_polygons(polygons: list, transforms: T.Transform, mask: np.ndarray, where: str) -> Window:
    """Draw the union of polygons into `mask`, in COCO's way, and return the window that was written. Only
    that window is drawn: whole-image bitmaps would make small objects as slow as large ones."""
    points = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in polygons if len(p) >= 6 and len(p) % 2 == 0]
    if not points or not all(np.isfinite(p).all() for p in points):
        raise ValueError(f"{where}: a polygon needs at least 3 points, an even number of values, all finite")
    # Not apply_polygons, which needs shapely to crop: drawing into the window crops as well.
    points = [transforms.apply_coords(p) for p in points]
    low = np.floor(np.min([p.min(axis=0) for p in points], axis=0)).astype(int) - 1
    high = np.ceil(np.max([p.max(axis=0) for p in points], axis=0)).astype(int) + 1
    (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(high, mask.shape[::-1])
    if x0 >= x1 or y0 >= y1:
        return slice(0, 0), slice(0, 0)
    window = slice(y0, y1), slice(x0, x1)
    mask[window] = polygons_to_bitmask([(p - (x0, y0)).ravel() for p in points], int(y1 - y0), int(x1 - x0))
    return window


def _tight_window(mask: np.ndarray, window: Window) -> Window | None:
    """The smallest window around the set pixels; None if there are none."""
    rows, cols = window
    set_rows = np.flatnonzero(mask[window].any(axis=1))
    if len(set_rows) == 0:
        return None
    set_cols = np.flatnonzero(mask[window].any(axis=0))
    return (
        slice(int(rows.start + set_rows[0]), int(rows.start + set_rows[-1] + 1)),
        slice(int(cols.start + set_cols[0]), int(cols.start + set_cols[-1] + 1)),
    )


def _class_id(annotation: dict, index: int, num_classes: int, file_name: str) -> int:
    class_id = int(annotation["category_id"])
    if class_id < 0 or num_classes and class_id >= num_classes:
        raise ValueError(
            f"{file_name}, annotation {index}: class id {class_id} is out of range 0..{num_classes - 1}; set "
            "MODEL.ROI_HEADS.NUM_CLASSES to the number of classes of the data set"
        )
    return class_id
