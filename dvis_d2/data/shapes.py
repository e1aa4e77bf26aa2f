"""Draw one picture of overlapping shapes with exact instance masks. First it is planned which object covers which
pixel, so that every object that is painted is also labeled; then `shapes_render` paints the plan. Coordinates are
pixels, (x, y); the center of the first pixel is (0, 0)."""

from collections.abc import Sequence

import cv2
import numpy as np

from . import shapes_render as look
from .shapes_render import CLASS_NAMES, Appearance, Bar, Placed, Texture

MIN_SIDE = 32  # px; smaller pictures have no room for the smallest object
MIN_DIAMETER = 12  # px; a smaller star has fewer than MIN_VISIBLE_PIXELS pixels
MIN_VISIBLE_PIXELS = 30
DEFAULT_SIZE = (0.16, 0.42)  # object diameter as a fraction of the picture's shorter side
TRIES = 30  # positions tried for an object, and bars tried for a picture
SPLIT_FRACTION = 0.1  # the second largest part of a split object holds at least this fraction of its pixels


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
    """Draw discs, squares, triangles, rings and stars, the later ones over the earlier ones.

    An object that finds no place in 30 tries is left out, so a crowded picture can hold fewer than `num_objects`.
    ValueError where an option is out of range.

    Args:
        height, width: px, at least 32.
        num_objects: least and greatest number of objects.
        bars: probability of one or two bars of the background; each cuts an object, which stays one instance, in two.
        copies: probability that two or three objects share class, size, rotation, colors and pattern.
        texture: textured background; False: a gradient, with slight noise.
        object_size: least and greatest diameter of an object's circumscribed circle in px (at least 12). None: 0.16 to
            0.42 of the shorter side.
        min_visible: fraction of every object that stays visible (at least 30 px); outside of the picture is hidden.

    Returns:
        Image (uint8 (height, width, 3), RGB), the visible part of each object (bool (height, width)), their indices in
        `shapes_render.CLASS_NAMES`, and "has_bar", "has_copies" (bool), "split_instances" (:func:`is_split` of each).
    """
    side = min(height, width)
    least, greatest = object_size or (max(fraction * side, MIN_DIAMETER) for fraction in DEFAULT_SIZE)
    shares = {"bars": bars, "copies": copies, "min_visible": min_visible}
    sizes, names = f"object_size {least, greatest} px", ", ".join(CLASS_NAMES)
    for fine, message in (
        (side >= MIN_SIDE, f"a picture of {height} x {width} px is too small: give at least {MIN_SIDE} x {MIN_SIDE}"),
        (1 <= num_objects[0] <= num_objects[1], f"num_objects is {tuple(num_objects)}: give 1 <= least <= greatest"),
        (MIN_DIAMETER <= least <= greatest, f"{sizes}: give {MIN_DIAMETER} <= least <= greatest"),
        (least <= 2 * side, f"{sizes} does not fit into {height} x {width} px"),
        *((0 <= value <= 1, f"{name} is {value}: give a number in [0, 1]") for name, value in shares.items()),
        (class_names and {*class_names} <= {*CLASS_NAMES}, f"class_names is {list(class_names)}: give some of {names}"),
    ):
        if not fine:
            raise ValueError(message)

    background = look.sample_background(rng, texture=texture, side=side)
    class_ids = [CLASS_NAMES.index(name) for name in class_names]
    count = int(rng.integers(num_objects[0], num_objects[1] + 1))
    with_copies = num_objects[1] >= 2 and rng.random() < copies
    count = max(count, 1 + with_copies)
    appearances = [look.sample_appearance(rng, (least, greatest), class_ids, background) for _ in range(count)]
    if with_copies:
        original, *others = rng.permutation(count)[: int(rng.integers(2, 4))]
        for other in others:
            appearances[other] = appearances[original]
    owner, placed, needed = _place(rng, appearances, (height, width), min_visible)
    placed_bars: list[Bar] = []
    for _ in range(int(rng.integers(1, 3)) if rng.random() < bars else 0):
        owner, bar = _cut(rng, owner, placed, needed, background)
        placed_bars += [bar] if bar else []
    noise = rng.uniform(0.01, 0.04) if texture else rng.uniform(0.005, 0.015)
    image = look.render(rng, background, placed, placed_bars, (height, width), noise)
    masks = [owner == k for k in range(1, len(placed) + 1)]
    attributes = {
        "has_bar": bool(placed_bars),
        "split_instances": [is_split(mask) for mask in masks],
        "has_copies": len({id(thing.appearance) for thing in placed}) < len(placed),
    }
    return image, masks, [thing.appearance.class_id for thing in placed], attributes


def is_split(mask: np.ndarray) -> bool:
    """Whether the second largest 8-connected part of a bool (H, W) mask has at least a tenth of its pixels."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = np.sort(stats[1:, cv2.CC_STAT_AREA])
    return count > 2 and bool(areas[-2] >= SPLIT_FRACTION * areas.sum())


def _place(
    rng: np.random.Generator, appearances: list[Appearance], size: tuple[int, int], min_visible: float
) -> tuple[np.ndarray, list[Placed], list[float]]:
    """The owner map (int32 (H, W), k on the k-th placed object, else 0), the placed objects, and how many px of each
    must stay visible."""
    owner, visible = np.zeros(size, dtype=np.int32), np.zeros(0, dtype=np.int64)
    placed: list[Placed] = []
    needed: list[float] = []
    for appearance in appearances:
        for _ in range(TRIES):
            center = (float(rng.uniform(0, size[1] - 1)), float(rng.uniform(0, size[0] - 1)))
            thing, area = look.place(appearance, center, size)
            mask = thing.distance < 0
            shown, required = np.count_nonzero(mask), max(min_visible * area, MIN_VISIBLE_PIXELS)
            hidden = np.bincount(owner[thing.window][mask], minlength=len(placed) + 1)[1:]
            if shown >= required and np.all(visible - hidden >= needed):
                placed.append(thing)
                owner[thing.window][mask] = len(placed)
                visible = np.append(visible - hidden, shown)
                needed.append(required)
                break
    return owner, placed, needed


def _cut(
    rng: np.random.Generator, owner: np.ndarray, placed: list[Placed], needed: list[float], background: Texture
) -> tuple[np.ndarray, Bar | None]:
    """Lay one bar across a random object so that it falls in two; without a bar where that would hide too much."""
    for _ in range(TRIES if placed else 0):
        target = int(rng.integers(len(placed)))
        appearance, center = placed[target][:2]
        dx, dy = rng.uniform(-0.15, 0.15, 2) * appearance.diameter
        width = max(appearance.diameter * rng.uniform(0.12, 0.25), 3.0)
        bar = look.sample_bar(rng, (center[0] + float(dx), center[1] + float(dy)), width, background)
        after = np.where(bar.signed_distance(*owner.shape) < 0, 0, owner)
        visible = np.bincount(after.ravel(), minlength=len(placed) + 1)[1:]
        if np.all(visible >= needed) and is_split(after == target + 1):
            return after, bar
    return owner, None
