"""Fill in what COCO's tools need and many exporters leave out."""

from __future__ import annotations

import copy

import pycocotools.mask as mask_util


def complete_coco(data: dict) -> dict:
    """A copy of COCO-format data in which every annotation has "id", "iscrowd", "bbox" and "area".

    What is there stays. A missing "iscrowd" is 0; "bbox" ([x, y, width, height]) and "area" (px) are computed
    from the mask; new ids follow the greatest one.

    Raises:
        ValueError: a mask or an image that is needed for it is missing or broken; the annotation is named.
    """
    data = copy.deepcopy(data)
    sizes = {image.get("id"): (image.get("height"), image.get("width")) for image in data["images"]}
    next_id = max((a["id"] for a in data["annotations"] if type(a.get("id")) is int), default=0) + 1
    for position, annotation in enumerate(data["annotations"]):
        if annotation.get("id") is None:
            annotation["id"] = next_id
            next_id += 1
        annotation.setdefault("iscrowd", 0)
        if "bbox" in annotation and "area" in annotation:
            continue
        try:
            rle = _as_rle(annotation["segmentation"], *sizes[annotation["image_id"]])
        except Exception as error:  # whatever pycocotools makes of malformed input
            raise ValueError(
                f"annotation {annotation['id']} (entry {position}): its mask cannot be read ({error!r}); "
                "correct the errors of the report first"
            ) from error
        annotation.setdefault("bbox", [float(v) for v in mask_util.toBbox(rle)])
        annotation.setdefault("area", float(mask_util.area(rle)))
    return data


def _as_rle(segmentation: list | dict, height: int, width: int) -> dict:
    if isinstance(segmentation, list):
        return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return mask_util.frPyObjects(segmentation, height, width)
    return segmentation
