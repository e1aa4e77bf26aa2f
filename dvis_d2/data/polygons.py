"""Polygons of a mask: [x, y, x, y, ...] in px, several are one object. They are drawn as COCO does, with bounds."""

import numpy as np
import pycocotools.mask as mask_util

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
    near = [p for p in (clip_polygon(p, height, width) for p in points) if len(p)] or [np.zeros((3, 2))]
    for p in near:
        if found := endless_outline(p):
            raise ValueError(f"{where}: a polygon {found}; simplify it")
    return mask_util.merge(mask_util.frPyObjects([p.ravel() for p in near], height, width))


def plain_polygons(polygons: list, height: int, width: int, where: str) -> list:
    """Of polygons as :func:`polygon_points` takes them, what pycocotools can draw, as lists. ValueError as there."""
    if all(6 <= len(p) <= 1000 and len(p) % 2 == 0 and -FAR <= min(p) and max(p) <= FAR for p in polygons):
        return polygons
    points = [clip_polygon(p, height, width) for p in polygon_points(polygons, where)]
    for p in points:
        if found := endless_outline(p):
            raise ValueError(f"{where}: a polygon {found}; simplify it")
    return [p.ravel().tolist() for p in points if len(p)] or [[0.0] * 6]


def endless_outline(points: np.ndarray) -> str:
    """What is too much of a polygon, (P, 2), to be drawn; "" if nothing is."""
    if len(points) > MAX_POINTS:
        return f"of {len(points):,} points"
    if len(points) * np.abs(points).max(initial=0) < MAX_OUTLINE / 2:  # cannot be longer
        return ""
    length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    return f"whose outline is {length:,.0f} px long" if length > MAX_OUTLINE else ""


def clip_polygon(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The part of a polygon, finite float64 (P, 2), that is at most :data:`FAR` px away from the image (Sutherland,
    Hodgman); the same array if that is all of it."""
    if np.abs(points).max(initial=0) <= FAR:
        return points
    points = np.clip(points, -1e15, 1e15)
    for axis, sign, bound in (0, -1, FAR), (0, 1, width + FAR), (1, -1, FAR), (1, 1, height + FAR):
        depth = sign * points[:, axis] - bound  # beyond this side
        if (depth > 0).any():
            ends, end_depth = np.roll(points, -1, axis=0), np.roll(depth, -1)
            crosses = (depth > 0) != (end_depth > 0)
            share = depth / np.where(crosses, depth - end_depth, np.inf)
            crossings = points + share[:, None] * (ends - points)
            both = np.stack([points, crossings], axis=1).reshape(-1, 2)
            points = both[np.stack([depth <= 0, crosses], axis=1).ravel()]
    return points
