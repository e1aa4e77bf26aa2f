"""Time of mean shift and of the proposals, against scikit-learn's MeanShift.

On the same maps (about 40 % foreground; values on 8 levels one label apart, with noise), for all images and
both bandwidths together: mean shift alone, with the proposals, and with the proposals' masks at four times
the resolution. scikit-learn has a flat kernel of the bandwidth's radius; it runs with and without
bin_seeding, one image and bandwidth after the other. Without bin_seeding it takes minutes on a whole map, so
it gets a random part of the values, and is compared with ours on that same part; nothing is extrapolated.

Repeats of the methods are interleaved; times are medians.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from sklearn.cluster import MeanShift
from torch import Tensor
from tqdm import tqdm

from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.mask_pasting import upsample_soft_masks
from dvis_d2.modeling.mean_shift import mean_shift_1d_batched

from ..tables import markdown_table
from .common import Clock, add_clock_arguments, clock_setting, interleaved, make_clock

MAPS = ((32, 32, 8), (128, 128, 2), (175, 233, 1), (256, 336, 2))
BANDWIDTHS = (0.9, 0.4)
STRIDE = 4
GROWTH_MAP, GROWTH = (175, 175, 1), (5, 100)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=15, help="of ours; scikit-learn takes 3 at most")
    parser.add_argument("--part", type=int, default=1000, help="values for scikit-learn without bin_seeding")
    parser.add_argument("--quick", action="store_true", help="only 32x32x8 and 175x233x1, 5 repeats")
    add_clock_arguments(parser)


def run(args: argparse.Namespace) -> dict:
    clock, device = make_clock(args), torch.device(args.device)
    repeats = min(args.repeats, 5) if args.quick else args.repeats
    rows = [
        _measure_map(make_map(shape, instances).to(device), instances, repeats, args.part, clock)
        for shape in tqdm(MAPS[::2] if args.quick else MAPS)
        for instances in (8, 100)
    ]
    print(_format(rows))
    growth = _measure_growth(device, repeats, clock)
    print(f"proposals, {GROWTH_MAP[0]} x {GROWTH_MAP[1]}: {growth}")
    return clock_setting(args) | {"maps": rows, "growth": growth}


def make_map(shape: tuple[int, int, int], instances: int) -> Tensor:
    """Label maps (N, h, w), each with round instances on a grid of jittered centers, 40 % foreground."""
    height, width, num_images = shape
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    label_maps = torch.zeros(num_images, height, width)
    columns = max(1, round((instances * width / height) ** 0.5))
    rows = -(-instances // columns)
    for label_map in label_maps:
        jitter = 0.3 + 0.4 * torch.rand(instances, 2, generator=generator)
        cell = torch.stack([torch.arange(instances) // columns, torch.arange(instances) % columns], 1)
        centers = (cell + jitter) * torch.tensor([height / rows, width / columns])
        distance = torch.hypot(y[..., None] - centers[:, 0], x[..., None] - centers[:, 1])
        nearest, owner = distance.min(-1)
        foreground = nearest <= nearest.flatten().kthvalue(int(0.4 * height * width)).values
        label_map[foreground] = 2.0 + (owner[foreground] % 8)
    noise = F.avg_pool2d(torch.randn(label_maps.shape, generator=generator), 3, stride=1, padding=1)
    return label_maps + 0.3 * noise * (label_maps > 0)


def _measure_map(label_maps: Tensor, instances: int, repeats: int, part: int, clock: Clock) -> dict:
    values = [label_map[label_map > 1] for label_map in label_maps]
    generator = torch.Generator().manual_seed(0)
    share = max(1, part // len(values))
    parts = [v[torch.randperm(len(v), generator=generator)[:share].to(v.device)] for v in values]
    height, width = label_maps.shape[1:]
    size = (height * STRIDE, width * STRIDE)

    def masks() -> None:
        for grouping in group_label_map(label_maps, bandwidths=BANDWIDTHS):
            upsample_soft_masks(grouping.soft, stride=STRIDE, image_size=size)

    methods = {
        "mean_shift": lambda: _ours(values),
        "proposals": lambda: group_label_map(label_maps, bandwidths=BANDWIDTHS),
        "masks": masks,
        "mean_shift_part": lambda: _ours(parts),
    }
    rivals = {
        "bin_seeding": lambda: _scikit_learn(values, bin_seeding=True),
        "scikit_learn_part": lambda: _scikit_learn(parts, bin_seeding=False),
    }
    times = interleaved(methods | rivals, repeats, clock, slow=rivals)
    proposals = sum(len(grouping) for grouping in group_label_map(label_maps, bandwidths=BANDWIDTHS))
    return {
        "map": "x".join(map(str, (height, width, len(label_maps)))),
        "instances": instances,
        "foreground": sum(map(len, values)),
        "part": sum(map(len, parts)),
        "proposals_per_image": proposals / len(label_maps),
        "ms": {name: round(value, 3) for name, value in times.items()},
        "ratio_bin_seeding": times["bin_seeding"] / times["mean_shift"],
        "ratio_scikit_learn_part": times["scikit_learn_part"] / times["mean_shift_part"],
    }


def _measure_growth(device: torch.device, repeats: int, clock: Clock) -> dict:
    few, many = (make_map(GROWTH_MAP, instances).to(device) for instances in GROWTH)
    methods = {"few": lambda: group_label_map(few), "many": lambda: group_label_map(many)}
    times = interleaved(methods, repeats, clock)
    result = {f"ms_{n}_instances": round(times[key], 3) for n, key in zip(GROWTH, methods, strict=True)}
    return {**result, "ratio": times["many"] / times["few"]}


def _ours(values: list[Tensor]) -> None:
    count = len(values)
    sizes = torch.tensor([len(v) for v in values] * len(BANDWIDTHS), device=values[0].device)
    segment_ids = torch.repeat_interleave(sizes)
    bandwidths = [bandwidth for bandwidth in BANDWIDTHS for _ in range(count)]
    mean_shift_1d_batched(torch.cat(values).repeat(len(BANDWIDTHS)), segment_ids, bandwidths)


def _scikit_learn(values: list[Tensor], *, bin_seeding: bool) -> None:
    for bandwidth in BANDWIDTHS:
        for v in values:
            MeanShift(bandwidth=bandwidth, bin_seeding=bin_seeding).fit(v.cpu().numpy()[:, None])


def _format(rows: list[dict]) -> str:
    headers = ["map", "instances", "foreground", "mean shift", "+ proposals", "+ masks", "proposals an image"]
    headers += ["bin_seeding", "x", "part", "mean shift", "MeanShift", "x"]
    cells = []
    for row in rows:
        ms = row["ms"]
        ours = [f"{ms['mean_shift']:.2f}", f"{ms['proposals']:.2f}", f"{ms['masks']:.1f}"]
        seeded = [f"{ms['bin_seeding']:.0f}", f"{row['ratio_bin_seeding']:.0f}"]
        parts = [f"{ms['mean_shift_part']:.2f}", f"{ms['scikit_learn_part']:.0f}"]
        cells.append(
            [row["map"], row["instances"], row["foreground"], *ours, f"{row['proposals_per_image']:.1f}", *seeded]
            + [row["part"], *parts, f"{row['ratio_scikit_learn_part']:.0f}"]
        )
    note = "milliseconds; 'x' is scikit-learn's time over ours on the same values"
    return f"{note}\n{markdown_table(cells, headers)}"
