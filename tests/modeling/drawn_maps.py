"""Drawn label maps, and groupings in a form that compares."""

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
