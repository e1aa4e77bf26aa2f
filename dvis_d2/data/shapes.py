"""Draw one picture of overlapping shapes with exact instance masks. Needs NumPy and OpenCV only.

:func:`draw_image` first plans which object covers which pixel, so that every object that is painted is also
labelled, and then `shapes_render` paints the plan. Coordinates are pixels, (x, y); the centre of the first
pixel is (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from .shapes_render import (
    CLASS_NAMES,
    Appearance,
    Bar,
    Texture,
    clip_window,
    object_window,
    render,
    sample_appearance,
    sample_background,
    sample_bar,
)

MIN_SIDE = 32  # px; smaller pictures have no room for the smallest object
MIN_DIAMETER = 12  # px; a smaller star has fewer than MIN_VISIBLE_PIXELS pixels
MIN_VISIBLE_PIXELS = 30
DEFAULT_SIZE = (0.16, 0.42)  # object diameter as a fraction of the picture's shorter side
TRIES = 30  # positions tried for an object, and bars tried for a picture
SPLIT_FRACTION = 0.1  # the second largest part of a split object holds at least this fraction of its pixels

Point = tuple[float, float]


def draw_image(
    rng: np.random.Generator,
    *,
    height: int = 128,
    width: int = 128,
    num_objects: tuple[int, int] = (1, 8),
    bars: float = 0.45,
    copies: float = 0.35,
    texture: bool = True,
    object_size: tuple[float, float] | None = None,
    min_visible: float = 0.4,
    class_names: Sequence[str] = CLASS_NAMES,
) -> tuple[np.ndarray, list[np.ndarray], list[int], dict]:
    """Draw discs, squares, triangles, rings and stars.

    Later objects cover earlier ones. A position is refused where less than `min_visible` of any object (what
    lies outside of the picture counts as hidden) or fewer than 30 px would stay visible. An object without a
    position after 30 tries is left out, so a crowded picture can hold fewer than `num_objects`.

    Args:
        rng: the only source of randomness.
        height, width: px, at least 32.
        num_objects: least and greatest number of objects, both included.
        bars: probability of one or two bars, which belong to the background and each cut an object in two.
            The cut object stays one instance.
        copies: probability that two or three objects share class, size, rotation, colours and pattern.
        texture: textured background; False: a plain one or a gentle gradient, with slight noise.
        object_size: least and greatest diameter of an object's circumscribed circle in px (at least 12),
            whatever the size of the picture. None: 0.16 to 0.42 of the shorter side.
        min_visible: in [0, 1].
        class_names: the classes to draw from, of `shapes_render.CLASS_NAMES`.

    Returns:
        image: uint8 (height, width, 3), RGB.
        masks: for each object bool (height, width), its visible part; masks do not overlap.
        classes: for each object an index into `shapes_render.CLASS_NAMES`.
        attributes: `has_bar` (bool); `has_copies` (bool); `split_instances` (list[bool], for each object
            whether a bar or an object in front cut it: its second largest part has at least a tenth of its
            pixels).

    Raises:
        ValueError: an option is out of range.
    """
    _check_options(height, width, num_objects, object_size)
    for name, value in ("bars", bars), ("copies", copies), ("min_visible", min_visible):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: give a number in [0, 1]")
    class_ids = _class_ids(class_names)
    side = min(height, width)
    diameters = object_size or (
        max(DEFAULT_SIZE[0] * side, MIN_DIAMETER),
        max(DEFAULT_SIZE[1] * side, MIN_DIAMETER),
    )
    background = sample_background(rng, texture=texture, side=side)
    look = {"diameters": diameters, "background": background, "class_ids": class_ids}
    appearances = _sample_appearances(rng, num_objects, copies, **look)
    owner, placed, full_areas = _place(rng, appearances, height, width, min_visible)
    placed_bars: list[Bar] = []
    if rng.random() < bars:
        for _ in range(int(rng.integers(1, 3))):
            owner, bar = _cut(rng, owner, placed, full_areas, min_visible, background)
            placed_bars += [bar] if bar else []
    noise = rng.uniform(0.01, 0.04) if texture else rng.uniform(0.005, 0.015)
    image = render(
        rng, height=height, width=width, background=background, objects=placed, bars=placed_bars, noise=noise
    )
    masks = [owner == k for k in range(1, len(placed) + 1)]
    appearances = [appearance for appearance, _ in placed]
    attributes = {
        "has_bar": bool(placed_bars),
        "split_instances": [is_split(mask) for mask in masks],
        "has_copies": len({id(appearance) for appearance in appearances}) < len(appearances),
    }
    return image, masks, [appearance.class_id for appearance in appearances], attributes


def is_split(mask: np.ndarray) -> bool:
    """Whether the second largest 8-connected part of a bool (H, W) mask has at least a tenth of its
    pixels."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])
    return count > 2 and bool(areas[-2] >= SPLIT_FRACTION * areas.sum())


def _sample_appearances(
    rng: np.random.Generator, num_objects: tuple[int, int], copies: float, **options
) -> list[Appearance]:
    """Appearances in drawing order; copies are the same object in the sense of `is`."""
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    with_copies = num_objects[1] >= 2 and rng.random() < copies
    if with_copies:
        count = max(count, 2)
    appearances = [sample_appearance(rng, **options) for _ in range(count)]
    if with_copies:
        original, *others = rng.permutation(count)[: int(rng.integers(2, 4))]
        for other in others:
            appearances[other] = appearances[original]
    return appearances


def _place(
    rng: np.random.Generator, appearances: list[Appearance], height: int, width: int, min_visible: float
) -> tuple[np.ndarray, list[tuple[Appearance, Point]], list[int]]:
    """Find positions. Returns the owner map (int32 (H, W), 0 background, k the k-th placed object), the
    placed objects, and the area (px) that each has when nothing hides it."""
    owner = np.zeros((height, width), dtype=np.int32)
    placed: list[tuple[Appearance, Point]] = []
    needed: list[float] = [0.0]  # visible px that object k must keep; index 0 is the background
    visible = np.array([height * width])
    full_areas: list[int] = []
    for appearance in appearances:
        for _ in range(TRIES):
            center = (float(rng.uniform(0, width - 1)), float(rng.uniform(0, height - 1)))
            rows, cols, distance = object_window(appearance, center)
            inside = clip_window(rows, cols, height, width)
            mask = distance < 0
            full_area = int(mask.sum())
            mask = mask[inside.local]
            area = int(mask.sum())
            hidden = np.bincount(owner[inside.rows, inside.cols][mask], minlength=len(needed))
            required = max(min_visible * full_area, MIN_VISIBLE_PIXELS)
            if area < required or np.any(visible[1:] - hidden[1:] < needed[1:]):
                continue
            placed.append((appearance, center))
            owner[inside.rows, inside.cols][mask] = len(placed)
            visible = np.append(visible - hidden, area)
            needed.append(required)
            full_areas.append(full_area)
            break
    return owner, placed, full_areas


def _cut(
    rng: np.random.Generator,
    owner: np.ndarray,
    placed: list[tuple[Appearance, Point]],
    full_areas: list[int],
    min_visible: float,
    background: Texture,
) -> tuple[np.ndarray, Bar | None]:
    """Lay one bar across a random object so that it falls in two. Returns the new owner map and the bar, or
    the map unchanged and None where no bar of 30 does so without hiding too much of some object."""
    needed = np.maximum(min_visible * np.array(full_areas), MIN_VISIBLE_PIXELS)
    for _ in range(TRIES if placed else 0):
        target = int(rng.integers(len(placed)))
        appearance, center = placed[target]
        jitter = rng.uniform(-0.15, 0.15, 2) * appearance.diameter
        bar = sample_bar(
            rng,
            through=(center[0] + float(jitter[0]), center[1] + float(jitter[1])),
            width=max(appearance.diameter * rng.uniform(0.12, 0.25), 3.0),
            background=background,
        )
        after = np.where(bar.signed_distance(*owner.shape) < 0, 0, owner)
        visible = np.bincount(after.ravel(), minlength=len(placed) + 1)[1:]
        if np.all(visible >= needed) and is_split(after == target + 1):
            return after, bar
    return owner, None


def _class_ids(class_names: Sequence[str]) -> list[int]:
    unknown = [name for name in class_names if name not in CLASS_NAMES]
    if unknown or not class_names:
        raise ValueError(f"class_names is {list(class_names)}: give some of {', '.join(CLASS_NAMES)}")
    return [CLASS_NAMES.index(name) for name in class_names]


def _check_options(
    height: int,
    width: int,
    num_objects: tuple[int, int],
    object_size: tuple[float, float] | None,
) -> None:
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"a picture of {height} x {width} px is too small: give at least {MIN_SIDE} x {MIN_SIDE}")
    if not 1 <= num_objects[0] <= num_objects[1]:
        raise ValueError(f"num_objects is {tuple(num_objects)}: give 1 <= least <= greatest")
    if object_size is not None and not MIN_DIAMETER <= object_size[0] <= object_size[1]:
        raise ValueError(f"object_size is {tuple(object_size)} px: give {MIN_DIAMETER} <= least <= greatest")
    if object_size is not None and object_size[0] > 2 * min(height, width):
        raise ValueError(f"object_size {tuple(object_size)} px does not fit into {height} x {width} px")
