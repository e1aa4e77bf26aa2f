"""Overlapping tiles of a label map, as segments for the exact pair sums."""

from __future__ import annotations

import torch
from torch import Tensor


def covers(side: int, height: int, width: int) -> bool:
    """Whether a tile of ``side`` map pixels, 0 for unlimited, covers an (H, W) map."""
    return side == 0 or side >= max(height, width)


def assign_tiles(order: Tensor, index: Tensor, shape: tuple[int, int, int], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """List every pixel once for each tile that holds it.

    Tiles of ``side`` x ``side`` map pixels start at the map's upper left corner and repeat every ``side /
    2``, as many as cover the map. A pixel lies in one or two tiles along each axis, so in T = 1, 2 or 4.

    Args:
        order: int64 (P,), the order in which pixels are to be listed.
        index: int64 (P,), position of each pixel in the flattened batch.
        shape: (N, H, W) of the batch.
        side: even number of map pixels, > 0.

    Returns:
        pixel: int64 (E,), P <= E <= 4 P, in the order given.
        tile: int64 (E,), unique over the batch.
        scale: float64 (E,), 1 / sqrt(T). The scales of two pixels, multiplied and summed over the tiles that
            they share, make a pair with the same tiles count 1, and other pairs (tiles shared) / sqrt(T1 *
            T2).
    """
    _, height, width = shape
    rows, columns = _tile_count(height, side), _tile_count(width, side)
    stride = side // 2
    index = index.index_select(0, order)
    image = torch.div(index, height * width, rounding_mode="floor")
    offset = index - image * (height * width)
    last_row = torch.div(offset, width * stride, rounding_mode="floor")
    last_column = torch.div(offset % width, stride, rounding_mode="floor")
    step = torch.arange(2, device=order.device)
    row = last_row[:, None, None] - step[:, None]  # (P, 2, 1)
    column = last_column[:, None, None] - step  # (P, 1, 2)
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    tile = (image[:, None, None] * rows + row) * columns + column
    scale = inside.sum((1, 2)).double().rsqrt()
    slot = inside.flatten().nonzero().squeeze(1)
    entry = torch.div(slot, 4, rounding_mode="floor")
    return order.index_select(0, entry), tile.flatten().index_select(0, slot), scale.index_select(0, entry)


def _tile_count(length: int, side: int) -> int:
    return 1 if length <= side else -(-2 * length // side) - 1
