"""What a mask says against what its annotation and its image say: pure functions of one annotation, and their sum."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeGuard

import cv2
import numpy as np

from .polygons import endless_outline
from .rle import Box, run_lengths, runs_box

OUTSIDE_TOLERANCE = 1.0  # px that a polygon may reach beyond the picture; annotation tools round
SERIOUS_SHARE = 0.2  # of the masks; where so many are wrong, training is meaningless
BOXES_WRONG = "if the boxes are wrong instead, remove them and run `dvis check` with --complete"
BOX_ADVICE = "only the mask is learned from, but box AP is wrong; remove the boxes and run `dvis check` with --complete"

# errors if they are more than SERIOUS_SHARE of the masks: what to do
SERIOUS = {
    "masks in 0..1 instead of px": "fractions of the image were exported; multiply x by its width, y by its height",
    "masks in percent instead of px": "percent was exported; multiply x by the width / 100, y by the height / 100",
    "masks with x and y exchanged": f"the exporter wrote (y, x), as arrays are indexed; {BOXES_WRONG}",
    "RLE masks written row by row": "COCO's runs go down the columns; encode numpy.asfortranarray(mask)",
    "inverted RLE masks": "the first run is background: write a 0 before it where the first pixel is the object",
    "masks at another scale than their boxes": f"the exporter used an image of another size; {BOXES_WRONG}",
    "masks turned or mirrored against their boxes": f"the exporter put the origin into another corner; {BOXES_WRONG}",
    "masks elsewhere than their boxes": f"they may belong to other objects or to a part of the image; {BOXES_WRONG}",
    "masks that lie outside of the image": "nothing is left of them; they belong to another image, or to another size",
    "masks smaller than a pixel": "they are hardly ever learned; write px, or remove them",
}
DOUBTFUL = {
    "boxes written as corners": f"the exporter wrote [x0, y0, x1, y1], COCO has [x, y, width, height]; {BOX_ADVICE}",
    "boxes given by their centers": f"the exporter wrote [x, y] of the center, COCO has the corner; {BOX_ADVICE}",
    "boxes as fractions of the image": f"the exporter wrote 0..1 or percent, COCO has px; {BOX_ADVICE}",
    "boxes that do not fit their masks": BOX_ADVICE,
    "areas that are not those of the masks": "COCO's small, medium and large go by them; remove the areas and run "
    "`dvis check` with --complete",
    "masks that occur twice in an image": "the annotations were exported or merged twice; keep one of each",
    "holes drawn as polygons": "COCO fills them, as it knows no holes; write the mask as an RLE",
    "pieces smaller than a pixel": "they are hardly ever drawn; remove them",
    "pieces of less than three points": "they are left out; remove them",
    "images that are covered by their masks all over": "inverted masks look like this, and a background that is "
    "annotated as an object",
    "masks in the upper left part of the images only": "the exporter may have used smaller images, or percent",
}


class Shape(NamedTuple):
    box: Box  # around the mask, not cut off at the image
    area: float  # px; of polygons the sum of all pieces
    size: int  # of its description: equal masks have equal ones
    runs: np.ndarray | None = None  # of an RLE


def examine_mask(segmentation: Any, height: int, width: int) -> tuple[Shape | None, dict[str, Any]]:
    """The shape of a segmentation in an image of that size, None if it has none, and its problems: what it is (keys of
    the tables here and in :mod:`.validation`), and a text about it, or True, or something false."""
    if not segmentation:
        return None, {"annotations without a mask": True}
    if isinstance(segmentation, list):
        return _examine_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict):
        return None, {"masks of unknown kind": True}
    if (size := segmentation.get("size")) != [height, width] and isinstance(size, list):
        return None, {"RLE masks of another size than the image": f"has size {size}, the image {[height, width]}"}
    try:
        runs = run_lengths(segmentation)
    except ValueError as error:
        return None, {"broken RLE masks": f"({error})"}
    box = runs_box(runs, height)
    return box and Shape(box, float(runs[1::2].sum()), len(runs), runs), {"empty masks": box is None}


def _examine_polygons(polygons: list, height: int, width: int) -> tuple[Shape | None, dict[str, Any]]:
    if not all(isinstance(polygon, list) for polygon in polygons):
        flat = all(is_number(value) for value in polygons)
        found = "is one list of numbers" if flat else "is a list of other things than lists"
        return None, {"malformed polygons": f"{found}: write [[x, y, x, y, ...]]"}
    if all(isinstance(value, list) for polygon in polygons for value in polygon):
        return None, {"malformed polygons": "has points as [x, y] pairs"}
    if any(len(polygon) % 2 for polygon in polygons):
        return None, {"malformed polygons": "has an odd number of values"}
    long_enough = [polygon for polygon in polygons if len(polygon) >= 6]
    if not long_enough:
        pairs = all(len(polygon) == 2 for polygon in polygons)
        return None, {"malformed polygons": "has points as [x, y] pairs" if pairs else "has less than three points"}
    try:
        pieces = [np.array(polygon) for polygon in long_enough]
    except ValueError:  # lists among the numbers
        pieces = [np.array(None)]
    if not all(p.ndim == 1 and p.dtype.kind in "iuf" and np.isfinite(p).all() for p in pieces):
        return None, {"polygons with values that are no finite numbers": True}
    pieces = [p.astype(np.float64, copy=False).reshape(-1, 2) for p in pieces]
    if found := next(filter(None, map(endless_outline, pieces)), ""):
        return None, {"malformed polygons": f"has one {found}"}
    boxes: list[Box] = [(*p.min(axis=0).tolist(), *p.max(axis=0).tolist()) for p in pieces]
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    box = x0, y0, x1, y1 = min(lefts), min(tops), max(rights), max(bottoms)
    outside = x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height
    beyond = min(x0, y0) < -OUTSIDE_TOLERANCE or x1 > width + OUTSIDE_TOLERANCE or y1 > height + OUTSIDE_TOLERANCE
    extent = f"spans x {x0:g}..{x1:g}, y {y0:g}..{y1:g}, image {width} x {height}"
    small = [max(b[2] - b[0], b[3] - b[1]) < 1 for b in boxes]
    empty = not any(b[2] > b[0] and b[3] > b[1] for b in boxes)
    areas = [cv2.contourArea((p - p[0]).astype(np.float32)) for p in pieces]
    return None if empty else Shape(box, sum(areas), sum(p.size for p in pieces)), {
        "empty masks": empty,
        "masks that lie outside of the image": outside and extent,
        "masks that reach outside of the image": beyond and not outside and extent,
        "masks smaller than a pixel": all(small) and not empty,
        "pieces smaller than a pixel": any(small) and not all(small),
        "pieces of less than three points": len(pieces) < len(polygons),
        "holes drawn as polygons": len(pieces) > 1 and _has_hole(pieces, boxes, areas),
    }


def _has_hole(pieces: list[np.ndarray], boxes: list[Box], areas: list[float]) -> bool:
    """Whether a piece, by its first point, lies in another one; of many pieces, in the largest."""
    order = sorted(range(len(pieces)), key=areas.__getitem__, reverse=True)
    return any(
        areas[k] and boxes[i][0] <= boxes[k][0] and boxes[i][1] <= boxes[k][1] and boxes[k][2] <= boxes[i][2]
        and boxes[k][3] <= boxes[i][3]
        and cv2.pointPolygonTest((pieces[i] - pieces[k][0]).astype(np.float32), (0, 0), False) > 0
        for rank, i in enumerate(order[:3]) for k in order[rank + 1 : 100]
    )  # fmt: skip


def explanations(shape: Shape, box: list[float], height: int, width: int) -> list[str]:
    """What may be wrong where a mask and its annotation's [x, y, width, height] disagree, keys of the tables above, the
    likeliest first; nothing if they agree."""
    x, y, w, h = box
    stated, found = (x, y, x + w, y + h), shape.box
    visible = (max(found[0], 0), max(found[1], 0), min(found[2], width), min(found[3], height))
    side = max(w, h, 0)
    if _close(found, stated, 2 + 0.1 * side) or _close(visible, stated, 2 + 0.1 * side):
        return []
    x0, y0, x1, y1 = found
    center = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    boxes = [("boxes written as corners", (x, y, w, h)), ("boxes given by their centers", center)]
    masks: list[tuple[str, Box | None]] = [("masks with x and y exchanged", (y0, x0, y1, x1))]
    for unit, kind in (1, "masks in 0..1 instead of px"), (100, "masks in percent instead of px"):
        across, down = width / unit, height / unit
        if max(x1, y1) <= 1.01 * unit:
            masks.append((kind, _scaled(found, across, down)))
        if max(box) <= 1.01 * unit:
            forms = stated, (x, y, w, h), center
            boxes += [("boxes as fractions of the image", _scaled(b, across, down)) for b in forms]
    if shape.runs is not None:
        turned = runs_box(shape.runs, width) or (0, 0, 0, 0)
        masks.append(("RLE masks written row by row", (turned[1], turned[0], turned[3], turned[2])))
        masks.append(("inverted RLE masks", runs_box(np.concatenate([[0], shape.runs]), height)))
    left, top, right, bottom = width - x1, height - y1, width - x0, height - y0  # seen from the opposite corner
    flipped = (x0, top, x1, bottom), (left, y0, right, y1), (left, top, right, bottom)
    turned_left, turned_right = (y0, left, y1, right), (top, x0, bottom, x1)
    masks += [("masks turned or mirrored against their boxes", b) for b in (*flipped, turned_left, turned_right)]
    across, down = (x + x + w) / ((x0 + x1) or 1), (y + y + h) / ((y0 + y1) or 1)
    # what has no free parameter comes first
    fits = [kind for kind, b in masks if b and _close(b, stated, 1.5 + 0.03 * side)]
    fits += [kind for kind, b in boxes if _close(b, found, 1.5 + 0.03 * max(x1 - x0, y1 - y0))]
    if max(abs(across - 1), abs(down - 1)) > 0.1 and _close(_scaled(found, across, down), stated, 0.03 * side + 0.5):
        fits.append("masks at another scale than their boxes")
    overlap = max(0.0, min(x1, x + w) - max(x0, x)) * max(0.0, min(y1, y + h) - max(y0, y))
    if fits or not overlap:
        return fits or ["masks elsewhere than their boxes"]
    union = (x1 - x0) * (y1 - y0) + w * h - overlap
    return ["boxes that do not fit their masks"] if overlap < union / 2 else []


def _close(a: Box, b: Box, slack: float) -> bool:
    return all(abs(p - q) <= slack for p, q in zip(a, b, strict=True))


def _scaled(box: Box, across: float, down: float) -> Box:
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


class MaskAudit:
    """The masks of a data set, one after another, against their own annotations."""

    def __init__(self) -> None:
        self.num_masks = 0
        self._disagreements: list[tuple[list[str], str]] = []
        self._seen: set[tuple] = set()
        self._covered: dict[int, list[float]] = defaultdict(list)  # by image: the share of it that each mask has
        self._reach = (0.0, 0.0)

    def examine(self, annotation: dict, height: int, width: int, where: str) -> dict[str, Any]:
        """The problems of one annotation's mask that are its own, as :func:`examine_mask` gives them."""
        segmentation = annotation.get("segmentation")
        shape, problems = examine_mask(segmentation, height, width)
        polygons = isinstance(segmentation, list) and bool(segmentation)
        problems["crowds drawn as polygons"] = polygons and annotation.get("iscrowd") == 1
        if shape is None:
            return problems
        self.num_masks += 1
        box, area, image_id = annotation.get("bbox"), annotation.get("area"), annotation["image_id"]
        identity = (image_id, *shape.box, shape.area, shape.size)
        problems["masks that occur twice in an image"] = identity in self._seen
        self._seen.add(identity)
        self._covered[image_id].append(shape.area / (height * width))
        self._reach = max(self._reach[0], shape.box[2] / width), max(self._reach[1], shape.box[3] / height)
        if is_number(area) and area > 0 and not 2 / 3 <= (area + 10) / (shape.area + 10) <= 3 / 2:
            problems["areas that are not those of the masks"] = f"has area {area:g}, its mask {shape.area:g} px"
        if is_box(box) and min(box[2:]) > 0 and (kinds := explanations(shape, box, height, width)):
            spans = ", ".join(f"{value:g}" for value in shape.box)
            self._disagreements.append((kinds, f"{where} has bbox {box}, its mask the corners [{spans}]"))
        return problems

    def findings(self) -> Iterator[tuple[str, dict[str, bool]]]:
        """An example, and what is wrong, for each disagreement with a box, and for the masks as a whole."""
        counts = Counter(kind for kinds, _ in self._disagreements for kind in kinds)
        for kinds, example in self._disagreements:
            yield example, {max(kinds, key=counts.__getitem__): True}
        several = {image: round(sum(shares), 6) for image, shares in self._covered.items() if len(shares) > 1}
        covered = {image: share for image, share in several.items() if share > 1.5 or share == 1}
        for image, share in covered.items() if len(covered) > len(several) / 2 else ():
            yield f"image {image}, {share:.1f} times", {"images that are covered by their masks all over": True}
        if self.num_masks >= 6 and len(self._covered) > 1 and max(self._reach) < 0.6:
            where = f"{self._reach[0]:.0%} of the width and {self._reach[1]:.0%} of the height at most"
            yield where, {"masks in the upper left part of the images only": True}


def is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and -1e300 < value < 1e300  # neither None nor NaN


def is_box(value: Any) -> TypeGuard[list[float]]:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(is_number, value))
