"""Drawn label maps, and groupings in a form that compares."""

import numpy as np
import torch

from dvis_d2.modeling.grouping import group_label_map


def group(label_map, **options):
    return group_label_map(torch.as_tensor(label_map)[None].float(), **options)[0]


def mask_set(grouping):
    return {tuple(map(tuple, mask.nonzero().tolist())) for mask in grouping.masks}


def cells(*regions, size=(12, 16)):
    """The same form for the union of (y0, y1, x0, x1) regions."""
    mask = torch.zeros(size, dtype=torch.bool)
    for y0, y1, x0, x1 in regions:
        mask[y0:y1, x0:x1] = True
    return tuple(map(tuple, mask.nonzero().tolist()))


def draw(*regions, size=(12, 16)):
    """A label map of (value, y0, y1, x0, x1) regions on background."""
    label_map = torch.zeros(size)
    for value, y0, y1, x0, x1 in regions:
        label_map[y0:y1, x0:x1] = value
    return label_map


def noisy_map(seed, height, width, noise, *, side):
    """float32 (height, width): blocks of `side` cells with labels 0 to 4, and normal noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, (height // side + 1, width // side + 1)).astype(np.float32)
    blocks = np.kron(coarse, np.ones((side, side)))[:height, :width]
    return (blocks + rng.normal(0, noise, (height, width))).astype(np.float32)
