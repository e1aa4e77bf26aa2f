"""Masks of large images, each kept inside its own box: 10,000 of them in 4096 x 4096 pixels take megabytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch


class CroppedMasks:
    """K masks of one image of `image_size` (H, W).

    `boxes`, int64 (K, 4), are x0, y0, x1, y1 in pixels, x1 and y1 excluded; `crops` the K bool arrays (y1 - y0,
    x1 - x0) inside them, outside of which a mask is False. ``masks[k]`` is the whole mask, bool (H, W); a slice, or an
    array or tensor of indices or bools, selects masks. It can be a field of Detectron2's `Instances`.
    """

    def __init__(self, image_size: tuple[int, int], boxes: np.ndarray, crops: Sequence[np.ndarray]):
        """ValueError where a crop does not have its box's size, or a box leaves the image."""
        self.image_size = int(image_size[0]), int(image_size[1])
        self.boxes = np.asarray(boxes, dtype=np.int64).reshape(-1, 4)
        self.crops = list(crops)
        shapes = np.array([crop.shape[::-1] for crop in self.crops], dtype=np.int64).reshape(-1, 2)
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if not np.array_equal(high - low, shapes):
            raise ValueError("every mask needs a box, and a crop of the box's size")
        if (low < 0).any() or (high > self.image_size[::-1]).any():
            raise ValueError(f"a box leaves the image of {self.image_size} (height, width)")

    @classmethod
    def from_masks(cls, masks: np.ndarray | torch.Tensor) -> "CroppedMasks":
        """Of whole masks, bool (K, H, W), with tight boxes; empty masks get empty boxes."""
        array = masks.detach().cpu().numpy() if isinstance(masks, torch.Tensor) else np.asarray(masks)
        boxes = [tight_box(mask) for mask in array]
        crops = [mask[y0:y1, x0:x1].copy() for mask, (x0, y0, x1, y1) in zip(array, boxes, strict=True)]
        return cls(array.shape[1:], np.array(boxes), crops)

    def __len__(self) -> int:
        return len(self.crops)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            mask = np.zeros(self.image_size, dtype=bool)
            x0, y0, x1, y1 = self.boxes[index]
            mask[y0:y1, x0:x1] = self.crops[index]
            return mask
        if isinstance(index, torch.Tensor):
            index = index.cpu().numpy()
        chosen = np.arange(len(self))[index]
        return CroppedMasks(self.image_size, self.boxes[chosen], [self.crops[k] for k in chosen])

    def numpy(self) -> np.ndarray:
        """The whole masks, bool (K, H, W)."""
        return np.array(list(self), dtype=bool).reshape(-1, *self.image_size)

    def areas(self) -> np.ndarray:
        """int64 (K,): pixels of each mask."""
        return np.array([np.count_nonzero(crop) for crop in self.crops], dtype=np.int64)

    def to_rle(self) -> list[dict]:
        """COCO RLE ("size": [H, W], "counts": bytes) of each mask, as pycocotools encodes the whole ones."""
        return [self._rle(box, crop) for box, crop in zip(self.boxes.tolist(), self.crops, strict=True)]

    def label_image(self, order: Iterable[int] | None = None) -> np.ndarray:
        """int32 (H, W): 0 background, k + 1 where mask k is. They are drawn in `order`, later ones over earlier ones;
        by default from the last to the first, which is the best where detections are sorted."""
        labels = np.zeros(self.image_size, dtype=np.int32)
        for k in range(len(self))[::-1] if order is None else order:
            x0, y0, x1, y1 = self.boxes[k]
            labels[y0:y1, x0:x1][self.crops[k]] = k + 1
        return labels

    def _rle(self, box: list[int], crop: np.ndarray) -> dict:
        """The runs of a crop's columns, at their places in the whole image, which COCO reads by columns."""
        height, width = self.image_size
        framed = np.zeros((crop.shape[1], crop.shape[0] + 2), dtype=np.int8)
        framed[:, 1:-1] = crop.T
        column, row = np.nonzero(np.diff(framed, axis=1))  # every second is a run's start, the others are its end
        places = (box[0] + column) * height + box[1] + row
        touching = np.flatnonzero(places[1:-1:2] == places[2::2])  # of runs that go on in the next column
        places = np.delete(places, np.concatenate([2 * touching + 1, 2 * touching + 2]))
        counts = np.diff(places, prepend=0, append=height * width)
        counts = counts[:-1] if len(places) and counts[-1] == 0 else counts
        return mask_util.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 around the True pixels of a bool (h, w) mask, x1 and y1 excluded; 0, 0, 0, 0 if there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if len(rows) else (0, 0, 0, 0)
