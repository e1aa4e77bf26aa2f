"""Masks of large images, each kept inside its own box: 10,000 of them in 4096 x 4096 pixels take megabytes."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util


class CroppedMasks:
    """K masks of one image of `image_size` (H, W).

    `boxes`, int64 (K, 4), are x0, y0, x1, y1 in pixels, x1 and y1 excluded; `crops` the K bool arrays (y1 - y0,
    x1 - x0) inside them, outside of which a mask is False. ``masks[k]`` is the whole mask, bool (H, W); a slice, or an
    array or tensor of indices or bools, selects masks. It can be a field of Detectron2's `Instances`.
    """

    def __init__(self, image_size: tuple[int, int], boxes: np.ndarray, crops: Sequence[np.ndarray]):
        """ValueError where a crop does not have its box's size, or a box leaves the image."""
        self.image_size = int(image_size[0]), int(image_size[1])
        self.boxes, self.crops = np.asarray(boxes, dtype=np.int64).reshape(-1, 4), list(crops)
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if not np.array_equal(high - low, np.array([crop.shape[::-1] for crop in self.crops]).reshape(-1, 2)):
            raise ValueError("every mask needs a box, and a crop of the box's size")
        if (low < 0).any() or (high > self.image_size[::-1]).any():
            raise ValueError(f"a box leaves the image of {self.image_size} (height, width)")

    @classmethod
    def from_masks(cls, masks: Any) -> "CroppedMasks":
        """Of whole masks, bool (K, H, W), array or tensor, with tight boxes; empty masks get empty boxes."""
        array = masks.detach().cpu().numpy() if hasattr(masks, "detach") else np.asarray(masks)
        boxes = np.array([tight_box(mask) for mask in array], dtype=np.int64).reshape(-1, 4)
        crops = [mask[y0:y1, x0:x1].copy() for mask, (x0, y0, x1, y1) in zip(array, boxes, strict=True)]
        return cls(array.shape[1:], boxes, crops)

    @classmethod
    def cat(cls, parts: Sequence["CroppedMasks"]) -> "CroppedMasks":
        """The masks of at least one image part after part; all have its size."""
        crops = itertools.chain.from_iterable(part.crops for part in parts)
        return cls(parts[0].image_size, np.concatenate([part.boxes for part in parts]), list(crops))

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            mask = np.zeros(self.image_size, dtype=bool)
            x0, y0, x1, y1 = self.boxes[index]
            mask[y0:y1, x0:x1] = self.crops[index]
            return mask
        chosen = np.arange(len(self))[index.cpu().numpy() if hasattr(index, "detach") else index]
        return CroppedMasks(self.image_size, self.boxes[chosen], [self.crops[k] for k in chosen])

    def numpy(self) -> np.ndarray:
        """The whole masks, bool (K, H, W)."""
        return np.array([self[k] for k in range(len(self))], dtype=bool).reshape(-1, *self.image_size)

    def areas(self) -> np.ndarray:
        """int64 (K,): pixels of each mask."""
        return np.array([np.count_nonzero(crop) for crop in self.crops], dtype=np.int64)

    def to_rle(self) -> list[dict]:
        """COCO RLE ("size": [H, W], "counts": bytes) of each mask, as pycocotools encodes the whole ones."""
        height, width = self.image_size
        runs = [self._runs(box, crop) for box, crop in zip(self.boxes.tolist(), self.crops, strict=True)]
        return [mask_util.frPyObjects({"size": [height, width], "counts": own}, height, width) for own in runs]

    def label_image(self, order: Iterable[int] | None = None) -> np.ndarray:
        """int32 (H, W): 0 background, k + 1 where mask k is. They are drawn in `order`, later ones over earlier ones;
        by default from the last to the first, which is the best where detections are sorted."""
        labels = np.zeros(self.image_size, dtype=np.int32)
        for k in range(len(self))[::-1] if order is None else order:
            x0, y0, x1, y1 = self.boxes[k]
            labels[y0:y1, x0:x1][self.crops[k]] = k + 1
        return labels

    def _runs(self, box: list[int], crop: np.ndarray) -> list[int]:
        """Lengths of runs of 0 and 1 of a whole mask, by columns, from those of its crop's columns."""
        height, width = self.image_size
        column, row = np.nonzero(np.diff(np.pad(crop.T.astype(np.int8), ((0, 0), (1, 1))), axis=1))
        places = (box[0] + column) * height + box[1] + row  # every second is a run's start, the others are its end
        touching = np.flatnonzero(places[1:-1:2] == places[2::2])  # of runs that go on in the next column
        places = np.delete(places, np.concatenate([2 * touching + 1, 2 * touching + 2]))
        counts = np.diff(places, prepend=0, append=height * width).tolist()
        return counts[:-1] if counts[-1] == 0 else counts


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 around the set pixels of a bool (h, w), x1 and y1 excluded; all 0 if there are none."""
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
