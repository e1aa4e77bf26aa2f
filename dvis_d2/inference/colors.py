"""The colors of pictures: a scale for labels, and sets in which neighbors differ. All float, 0 to 255, in RGB."""

from collections.abc import Sequence

import numpy as np

from ..data.cropped_masks import CroppedMasks

# Okabe and Ito's, which color-blind people tell apart, without black; blue and green lighter, for dark images.
PALETTE = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 180, 130), (240, 228, 66), (60, 130, 230), (213, 94, 0), (214, 131, 177)], float
)
_LOWEST = 0.15  # where the scale begins: below, viridis is hardly brighter than the background's black


def label_colors(values: np.ndarray, top: float) -> np.ndarray:
    """(..., 3) of labels float (...): viridis, even to the eye and for color-blind people, up to `top`; those under 1,
    which no object has, fade into black."""
    import matplotlib  # which a runtime need not have

    shares = _LOWEST + (1 - _LOWEST) * values / max(top, 1e-6)
    return matplotlib.colormaps["viridis"](shares)[..., :3] * np.clip(values, 0, 1)[..., None] * 255


def palette_colors(count: int) -> np.ndarray:
    """(count, 3): the palette, again and again, darker every second time."""
    number = np.arange(count)
    return PALETTE[number % len(PALETTE)] * np.where(number // len(PALETTE) % 2, 0.65, 1)[:, None]


def neighbor_colors(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(K, 3) from the palette for objects with boxes (K, 4), x0, y0, x1, y1: each has another color than those near it,
    as far as there are enough, else the one that fewest of them have. The colors follow from the boxes alone."""
    return PALETTE[_choose(boxes, image_size, [-1] * len(boxes))]


class LastingColors:
    """Called with the masks of one frame of a film after the other: colors (K, 3) as of :func:`neighbor_colors`, but an
    object half of which lies on one of the frame before keeps that one's color. It is for the eye: nothing is tracked,
    and who comes back gets any color."""

    def __init__(self) -> None:
        self._labels, self._chosen = np.zeros((0, 0), np.int32), np.zeros(0, np.int64)

    def __call__(self, masks: CroppedMasks) -> np.ndarray:
        kept, taken = [-1] * len(masks), set[int]()
        same_size = self._labels.shape == masks.image_size
        for k, ((x0, y0, x1, y1), crop) in enumerate(zip(masks.boxes, masks.crops, strict=True) if same_size else ()):
            counts = np.bincount(self._labels[y0:y1, x0:x1][crop], minlength=2)
            most = int(counts[1:].argmax()) + 1
            if 2 * counts[most] >= counts.sum() > 0 and most not in taken:
                taken.add(most)
                kept[k] = int(self._chosen[most - 1])
        self._labels, self._chosen = masks.label_image(), _choose(masks.boxes, masks.image_size, kept)
        return PALETTE[self._chosen]


def _choose(boxes: np.ndarray, image_size: tuple[int, int], kept: Sequence[int]) -> np.ndarray:
    """int64 (K,): numbers of the palette; `kept` are some that are settled, -1 for the others."""
    margin = 0.01 * max(image_size)
    grown = np.asarray(boxes, float).reshape(-1, 4) + (-margin, -margin, margin, margin)
    chosen = np.array(kept, dtype=np.int64)
    for k, (x0, y0, x1, y1) in enumerate(grown):
        if chosen[k] < 0:
            near = (grown[:, 0] < x1) & (grown[:, 2] > x0) & (grown[:, 1] < y1) & (grown[:, 3] > y0) & (chosen >= 0)
            taken = np.bincount(chosen[near], minlength=len(PALETTE))
            order = (np.arange(len(PALETTE)) + k) % len(PALETTE)  # so that all are used where nothing is near
            chosen[k] = order[taken[order].argmin()]
    return chosen
