"""Overlapping tiles of a label map, as four grids of tiles that do not overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def window_list(window: int | Sequence[tuple[int, float]] | None) -> list[tuple[int, float]]:
    """(side, factor) of every window that the option `window` of the loss names, side 0 for the whole map.

    Raises:
        ValueError: it names none, or a side or a factor makes no sense.
    """
    windows = [(window or 0, 1.0)] if window is None or isinstance(window, int) else list(window)
    if not windows:
        raise ValueError("window must name at least one window; (0, 1.0) is the whole map")
    for side, factor in windows:
        if side < 0 or side % 2 or not factor >= 0:
            raise ValueError(f"window must be even and >= 0 map pixels with a factor >= 0, not {side} with {factor}")
    return windows


def covers(side: int, height: int, width: int) -> bool:
    """Whether a tile of ``side`` map pixels, 0 for unlimited, covers an (H, W) map."""
    return side == 0 or side >= max(height, width)


@dataclass
class Tiles:
    """The tiles of the pixels at ``row`` and ``column``.

    Tiles of ``side`` x ``side`` map pixels start at the map's upper left corner and repeat every ``side /
    2``, as many as cover the map. A pixel lies in one or two tiles along each axis, so in T = 1, 2 or 4.
    Tiles ``side`` apart do not overlap: every second tile along each axis makes a grid in which a pixel lies
    in one tile or in none.
    """

    row: Tensor  # int64 (P,)
    column: Tensor  # int64 (P,)
    shape: tuple[int, int]  # (H, W) of the map
    side: int  # map pixels, even, > 0

    @property
    def count(self) -> int:
        """Tiles of an image."""
        height, width = self.shape
        return _tile_count(height, self.side) * _tile_count(width, self.side)

    def scale(self) -> Tensor:
        """float64 (P,), 1 / sqrt(T) for every pixel.

        The scales of two pixels, multiplied and summed over the tiles that they share, make a pair with the
        same tiles count 1, and other pairs (tiles shared) / sqrt(T1 * T2).
        """
        rows, columns = self._axes()
        rows, columns = ((x >= 0).sum(0).double().rsqrt_() for x in (rows, columns))
        return rows.index_select(0, self.row) * columns.index_select(0, self.column)

    def grids(self) -> Iterator[Tensor]:
        """The grids that have a tile: int64 (P,) each, the tile of every pixel, -1 for none."""
        rows, columns = self._axes()
        num_columns = _tile_count(self.shape[1], self.side)
        # A sum with a missing part must stay below 0.
        rows = torch.where(rows < 0, -self.count, rows * num_columns)
        columns = torch.where(columns < 0, -self.count, columns)
        for row in rows:
            for column in columns:
                yield (row.index_select(0, self.row) + column.index_select(0, self.column)).clamp_(min=-1)

    def _axes(self) -> tuple[Tensor, Tensor]:
        return tuple(_axis(length, self.side, self.row.device) for length in self.shape)


def _axis(length: int, side: int, device: torch.device) -> Tensor:
    """int64 (1 or 2, length): for even tiles, and for odd ones if there are any, the tile of every position
    along an axis, -1 for none."""
    count = _tile_count(length, side)
    last = torch.arange(length, device=device).div(side // 2, rounding_mode="floor")
    tile = torch.stack([last - (last - parity) % 2 for parity in range(min(count, 2))])
    return torch.where(tile < count, tile, -1)


def _tile_count(length: int, side: int) -> int:
    return 1 if length <= side else -(-2 * length // side) - 1
