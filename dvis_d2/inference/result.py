"""What a network found in one image, in every form in which it is handed over.

Coordinates are x to the right and y down, along the edges of pixels: (0, 0) is the image's upper left corner, (W, H)
its lower right one, (0.5, 0.5) the center of the first pixel. K objects, the best first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..data.cropped_masks import CroppedMasks
from ..data.image_io import ImageWindows
from .overlay import draw_overlay

MEASUREMENTS = tuple("label class score area centroid_x centroid_y x0 y0 x1 y1 diameter mean_intensity".split())


@dataclass(frozen=True)
class Result:
    """The objects of one image: ``len(result)`` of them; ``result[result.scores > 0.9]`` is a Result of some."""

    masks: CroppedMasks  # masks[k] is bool (H, W); masks.crops and masks.boxes are the same inside boxes alone
    boxes: np.ndarray  # float32 (K, 4): x0, y0, x1, y1
    scores: np.ndarray  # float32 (K,) in [0, 1]
    classes: np.ndarray  # int64 (K,), from 0 on
    class_names: Sequence[str]  # of all that the network knows
    image: np.ndarray | ImageWindows  # uint8 (H, W, 3) in RGB, as the network saw it
    pixels: np.ndarray | ImageWindows  # (H, W) or (H, W, C), as they were given or stored
    label_map: np.ndarray | None = None  # the network's own, float32 (h, w), 0 on background, if it was asked for

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> "Result":
        index = np.arange(len(self))[index].reshape(-1)
        fields = {name: getattr(self, name)[index] for name in ("masks", "boxes", "scores", "classes")}
        return replace(self, **fields)

    def __repr__(self) -> str:
        return f"Result({len(self)} objects in {self.masks.image_size[1]} x {self.masks.image_size[0]} pixels)"

    @property
    def names(self) -> list[str]:
        """The class name of every object."""
        return [self.class_names[k] for k in self.classes]

    def label_image(self) -> np.ndarray:
        """int32 (H, W): 0 background, k + 1 on object k. Where objects overlap, the better score is on top."""
        return self.masks.label_image(np.argsort(self.scores, kind="stable"))

    def polygons(self) -> list[list[list[np.ndarray]]]:
        """The outlines of every object, exactly along the edges of its pixels: a polygon for each part that hangs
        together by edges. A polygon is a list of rings, the outer one and then its holes; a ring is int (n, 2): x, y of
        its corners, the first one not repeated at the end."""
        starts = self.masks.boxes[:, :2]
        return [trace_mask(crop, start) for crop, start in zip(self.masks.crops, starts, strict=True)]

    def to_coco(self, image_id: int = 1, category_ids: Sequence[int] | None = None) -> list[dict]:
        """COCO's results, with "area": boxes x, y, width, height; masks as compressed RLE. The category of class k is
        ``category_ids[k]``, by default k + 1."""
        ids = range(1, len(self.class_names) + 1) if category_ids is None else category_ids
        rows = zip(self.classes, self.boxes.tolist(), self.masks.areas().tolist(), self._rounded_scores(), strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": ids[kind],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": area,
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                "score": score,
            }
            for (kind, (x0, y0, x1, y1), area, score), rle in zip(rows, self.masks.to_rle(), strict=True)
        ]

    def to_geojson(self) -> dict:
        """A FeatureCollection of polygons in pixels; QuPath opens it as detections with their classes and scores."""
        features = []
        for polygons, name, score in zip(self.polygons(), self.names, self._rounded_scores(), strict=True):
            parts: list = [[[*ring.tolist(), ring[0].tolist()] for ring in rings] for rings in polygons]
            kind, coordinates = ("Polygon", parts[0]) if len(parts) == 1 else ("MultiPolygon", parts)
            properties = {"objectType": "detection", "classification": {"name": name}, "measurements": {"score": score}}
            geometry = {"type": kind, "coordinates": coordinates}
            features.append({"type": "Feature", "geometry": geometry, "properties": properties})
        return {"type": "FeatureCollection", "features": features}

    def measurements(self) -> list[dict[str, Any]]:
        """A row an object, for a table, with the keys `MEASUREMENTS`: "label" is its value in :meth:`label_image`,
        "area" in pixels, "diameter" that of the circle of this area, "mean_intensity" of ``pixels``."""
        rows = []
        found = zip(self.masks.crops, self.masks.boxes.tolist(), self.names, self._rounded_scores(), strict=True)
        for label, (crop, (x0, y0, x1, y1), name, score) in enumerate(found, start=1):
            y, x = np.nonzero(crop)
            held = self.pixels
            pixels = held[y0:y1, x0:x1] if isinstance(held, np.ndarray) else held.stored(y0, y1, x0, x1)
            figures = x.mean() + x0 + 0.5, y.mean() + y0 + 0.5, 2 * (len(x) / np.pi) ** 0.5, pixels[y, x].mean()
            center_x, center_y, diameter, mean = (round(float(n), 3) for n in figures)
            row = [label, name, score, len(x), center_x, center_y, x0, y0, x1, y1, diameter, mean]
            rows.append(dict(zip(MEASUREMENTS, row, strict=True)))
        return rows

    def whole_image(self) -> np.ndarray:
        """uint8 (H, W, 3) in RGB. ValueError if it is read by windows."""
        if not isinstance(self.image, np.ndarray):
            raise ValueError(f"{self} is too large for a picture\nsave other forms, or cut the image")
        return self.image

    def plot(self, colors: np.ndarray | None = None) -> Image.Image:
        """The image with its objects drawn on it, with class names and scores where there is room. `colors`: (K, 3), 0
        to 255 in RGB; by default neighbors have different ones. Of a film, take those of
        :class:`.colors.LastingColors`."""
        captions = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        return Image.fromarray(draw_overlay(self.whole_image(), self.masks, captions, colors))

    def to_instances(self) -> Any:
        """Detectron2's ``Instances``, on the CPU; ``pred_masks`` bool (K, H, W)."""
        import torch
        from detectron2.structures import Boxes, Instances

        boxes, masks = Boxes(torch.from_numpy(self.boxes)), torch.from_numpy(self.masks.numpy())
        scores, classes = torch.from_numpy(self.scores), torch.from_numpy(self.classes)
        return Instances(self.masks.image_size, pred_boxes=boxes, scores=scores, pred_classes=classes, pred_masks=masks)

    def to_supervision(self) -> Any:
        """The library supervision's ``Detections``, with whole masks. ImportError if it is not installed."""
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError(f"Result.to_supervision: {error}\npip install supervision") from error
        data: dict = {"class_name": np.array(self.names, dtype=str)}
        return Detections(self.boxes, self.masks.numpy(), self.scores, self.classes, data=data)

    def _rounded_scores(self) -> list[float]:
        return self.scores.astype(np.float64).round(6).tolist()


def trace_mask(mask: np.ndarray, start: Sequence[int] = (0, 0)) -> list[list[np.ndarray]]:
    """The polygons of a mask, bool (h, w), as in :meth:`Result.polygons`; `start` is x, y of its upper left corner."""
    polygons = []
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for part in range(1, count):
        x, y, width, height = boxes[part, :4]
        # OpenCV's contours join centers of pixels. If every pixel is first made four, the contours round to the corners
        # of pixels, and one that is alone has four.
        four = (parts[y : y + height, x : x + width] == part).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        contours, tree = cv2.findContours(four, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        outer_first = np.argsort(tree[0, :, 3] >= 0, kind="stable")
        polygons.append([_corners((contours[i][:, 0] + 1) // 2) + (x + start[0], y + start[1]) for i in outer_first])
    return polygons


def _corners(points: np.ndarray) -> np.ndarray:
    """int (n, 2): where a closed way along the axes, (m, 2), turns."""
    path = points[:, 0] + 1j * points[:, 1]
    steps = np.diff(path, append=path[:1])
    points, steps = points[steps != 0], steps[steps != 0]
    return points[steps != np.concatenate([steps[-1:], steps[:-1]])]
