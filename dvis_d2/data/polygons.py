"""Polygons of a mask: [x, y, x, y, ...] in px, several are one object. They are drawn as COCO does, with bounds."""

import numpy as np
import pycocotools.mask as mask_util
from matplotlib.path import Path
from matplotlib.transforms import Bbox

NO_SEGMENTATION = "it has no segmentation; add a polygon or an RLE, or take it out"
FAR = 10_000.0  # px beyond the image at which polygons are cut off: pycocotools walks along all of the outline
MAX_POINTS = 500_000  # of a polygon
MAX_OUTLINE = 2_000_000  # px; pycocotools needs about 120 bytes for each


def polygon_points(polygons: list, where: str) -> list[np.ndarray]:
    """The vertices, float64 (P, 2), of the polygons that have at least three. ValueError if none has."""
    if not polygons:
        raise ValueError(f"{where}: {NO_SEGMENTATION}")
    points = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in polygons if len(p) >= 6 and len(p) % 2 == 0]
    if not points or not all(np.isfinite(p).all() for p in points):
        raise ValueError(f"{where}: a polygon needs at least 3 points, an even number of values, all finite")
    return points


def polygons_to_rle(points: list[np.ndarray], height: int, width: int, where: str) -> dict:
    """COCO's compressed RLE of the union of polygons, finite float64 (P, 2) each, in an image of (height, width).
    ValueError, naming `where`, if one is beyond :data:`MAX_POINTS` or :data:`MAX_OUTLINE`."""
    return mask_util.merge(mask_util.frPyObjects(_drawable(points, height, width, where), height, width))


def plain_polygons(polygons: list, height: int, width: int, where: str) -> list:
    """Of polygons as :func:`polygon_points` takes them, what pycocotools can draw, as lists. ValueError as there."""
    if all(6 <= len(p) <= 1000 and len(p) % 2 == 0 and -FAR <= min(p) and max(p) <= FAR for p in polygons):
        return polygons
    return [p.tolist() for p in _drawable(polygon_points(polygons, where), height, width, where)]


def _drawable(points: list[np.ndarray], height: int, width: int, where: str) -> list[np.ndarray]:
    """At least one polygon, float64 (2 P,) each."""
    near = [clip_polygon(p, height, width) for p in points]
    if found := next(filter(None, map(endless_outline, near)), ""):
        raise ValueError(f"{where}: a polygon {found}; simplify it")
    return [p.ravel() for p in near if len(p)] or [np.zeros(6)]


def endless_outline(points: np.ndarray) -> str:
    """What is too much of a polygon, (P, 2), to be drawn; "" if nothing is."""
    if len(points) > MAX_POINTS:
        return f"of {len(points):,} points"
    if len(points) * np.abs(points).max(initial=0) < MAX_OUTLINE / 2:  # cannot be longer
        return ""
    length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    return f"whose outline is {length:,.0f} px long" if length > MAX_OUTLINE else ""


def clip_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of a polygon, finite float64 (P, 2), that is at most :data:`FAR` px away from the image; the same array
    if that is all of it."""
    if np.abs(points).max(initial=0) <= FAR:
        return points
    around = Bbox([[-FAR, -FAR], [width + FAR, height + FAR]])
    return np.asarray(Path(np.clip(points, -1e15, 1e15)).clip_to_bbox(around).vertices)
