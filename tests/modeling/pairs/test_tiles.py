import pytest
import torch

from dvis_d2.modeling.pairs.tiles import Tiles, covers


def tile_starts(length, side):
    starts = [0]
    while starts[-1] + side < length:
        starts.append(starts[-1] + side // 2)
    return starts


@pytest.mark.parametrize(
    "shape, side", [((7, 9), 4), ((8, 8), 4), ((13, 3), 2), ((5, 40), 6), ((10, 11), 10), ((6, 6), 8)]
)
def test_the_grids_hold_every_pixel_of_every_tile_once(shape, side):
    height, width = shape
    row, column = (x.flatten() for x in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    tiles = Tiles(row, column, shape, side)
    found = sorted((t, p) for grid in tiles.grids() for p, t in enumerate(grid.tolist()) if t >= 0)
    tops, lefts = tile_starts(height, side), tile_starts(width, side)
    expected = [
        (i * len(lefts) + j, y * width + x)
        for i, top in enumerate(tops)
        for j, left in enumerate(lefts)
        for y in range(top, min(top + side, height))
        for x in range(left, min(left + side, width))
    ]
    assert found == sorted(expected)
    assert tiles.count == len(tops) * len(lefts)
    copies = torch.tensor([p for _, p in found]).bincount()
    torch.testing.assert_close(tiles.scale(), copies.double().rsqrt())


def test_the_whole_map_needs_no_tiles():
    assert covers(0, 30, 40) and covers(40, 30, 40) and not covers(38, 30, 40)
