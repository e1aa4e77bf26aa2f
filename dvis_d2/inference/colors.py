"""The colors of pictures: a scale for labels, and sets in which neighbors differ. All float, 0 to 255, in RGB."""

import matplotlib
import numpy as np

# Okabe and Ito's, which color-blind people tell apart, without black; blue and green lighter, for dark images.
PALETTE = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 180, 130), (240, 228, 66), (60, 130, 230), (213, 94, 0), (214, 131, 177)], float
)
_LOWEST = 0.15  # where the scale begins: below, viridis is hardly brighter than the background's black


def label_colors(values: np.ndarray, top: float) -> np.ndarray:
    """(..., 3) of labels float (...): viridis, even to the eye and for color-blind people, up to `top`; those under 1,
    which no object has, fade into black."""
    shares = _LOWEST + (1 - _LOWEST) * values / max(top, 1e-6)
    return matplotlib.colormaps["viridis"](shares)[..., :3] * np.clip(values, 0, 1)[..., None] * 255


def palette_colors(count: int) -> np.ndarray:
    """(count, 3): the palette, again and again, darker every second time."""
    number = np.arange(count)
    return PALETTE[number % len(PALETTE)] * np.where(number // len(PALETTE) % 2, 0.65, 1)[:, None]


def neighbor_colors(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(K, 3) from the palette for objects with boxes (K, 4), x0, y0, x1, y1: each has another color than those near it,
    as far as there are enough, else the one that fewest of them have. The colors follow from the boxes alone."""
    margin = 0.01 * max(image_size)
    grown = np.asarray(boxes, float).reshape(-1, 4) + (-margin, -margin, margin, margin)
    chosen = np.zeros(len(grown), dtype=np.int64)
    for k, (x0, y0, x1, y1) in enumerate(grown):
        before = grown[:k]
        near = (before[:, 0] < x1) & (before[:, 2] > x0) & (before[:, 1] < y1) & (before[:, 3] > y0)
        taken = np.bincount(chosen[:k][near], minlength=len(PALETTE))
        order = (np.arange(len(PALETTE)) + k) % len(PALETTE)  # so that all are used where nothing is near
        chosen[k] = order[taken[order].argmin()]
    return PALETTE[chosen]
