"""Time and memory of the permutation-invariant loss, forward and backward.

Side by side, on the same maps (40 % foreground, discs of random size): the exact loss over all pairs, one sort of the
values alone, all pairs by brute force (small maps), the paper's stratified pairs, random pairs, and the pairs as the
authors compute them, a convolution with one-hot kernels, one output channel for every offset.

Repeats of the methods are interleaved; times are medians. Memory is the peak of the bytes allocated during one forward
and backward beyond those before it: on the CPU the running sum of torch's allocation events in the profiler plus the
peak of NumPy's, an upper bound since the two need not coincide, on a GPU the allocator's own peak.
"""

from __future__ import annotations

import argparse
import math
import tracemalloc
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from dvis_d2.modeling.losses import huber_loss, permutation_invariant_loss

from ..tables import markdown_table
from .common import Clock, add_clock_arguments, clock_setting, interleaved, make_clock

MAPS = ((32, 32, 8), (128, 128, 2), (175, 233, 1), (256, 336, 2))
GROWTH = (10_000, 100_000, 1_000_000)
MARGIN, THETA = 1.0, 0.1
MAX_BRUTE_FORCE_PIXELS = 2_000
CONVOLUTION_MAPS = MAPS[::2]
METHODS = ("exact pairs", "window 16", "sort alone", "stratified", "random", "brute force", "convolution")
SLOW = METHODS[-2:]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=15, help="of every method; the convolution takes 3 at most")
    parser.add_argument("--quick", action="store_true", help="only 32x32x8 and 175x233x1, 8 instances, no growth")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="besides the exact loss")
    add_clock_arguments(parser)


def run(args: argparse.Namespace) -> dict:
    clock, device = make_clock(args), torch.device(args.device)
    shapes, counts = (CONVOLUTION_MAPS, (8,)) if args.quick else (MAPS, (1, 8, 100))
    rows = [
        _measure_map(shape, instances, args.methods, args.repeats, device, clock)
        for shape in tqdm(shapes)
        for instances in counts
    ]
    print(_format(rows))
    growth = {} if args.quick else _measure_growth(args.repeats, device, clock)
    if growth:
        print(f"exact, 8 instances, ms by foreground pixels: {growth}")
    return clock_setting(args) | {"maps": rows, "growth": growth}


def make_map(shape: tuple[int, int, int], instances: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A half-trained label map (N, H, W) and its instance ids: 40 % foreground, ``instances`` in every
    image."""
    height, width, num_images = shape
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([height, width])
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ids = torch.zeros(num_images, height, width, dtype=torch.int64)
    for image in ids:
        nearest = torch.full((height, width), math.inf)
        centers = torch.rand(instances, 2, generator=generator) * size
        radii = 0.5 + torch.rand(instances, generator=generator)
        for k, (center, radius) in enumerate(zip(centers, radii, strict=True), start=1):
            distance = torch.hypot(y - center[0], x - center[1]) / radius
            image[distance < nearest] = k
            nearest = torch.minimum(nearest, distance)
        image[nearest > nearest.flatten().kthvalue(int(0.4 * height * width)).values] = 0
    levels = 2 + 4 * torch.rand(num_images, instances + 1, generator=generator)
    values = levels.gather(1, ids.flatten(1)).view_as(ids) * (ids > 0)
    values = values + 0.3 * torch.randn(ids.shape, generator=generator)
    return values.to(device).requires_grad_(), ids.to(device)


def authors_offsets() -> list[tuple[int, int]]:
    """Half-plane of offsets (dy, dx): L1 distance below 4, every 4th pixel up to 16 rows and 32 columns
    beyond."""
    return [
        (dy, dx)
        for dy in range(17)
        for dx in range(-32 if dy else 1, 33)
        if dy + abs(dx) < 4 or (dy % 4 == 0 and dx % 4 == 0)
    ]


def convolution_loss(label_map: Tensor, instance_ids: Tensor) -> Tensor:
    """Mean over the pairs at :func:`authors_offsets`, read from the map by one-hot kernels, one an offset."""
    offsets = authors_offsets()
    kernel = label_map.new_zeros(len(offsets), 1, 33, 65)
    for k, (dy, dx) in enumerate(offsets):
        kernel[k, 0, 16 + dy, 32 + dx] = 1

    def shifted(x: Tensor) -> Tensor:
        return F.conv2d(x[:, None], kernel, padding=(16, 32))

    ids = instance_ids.to(label_map.dtype)
    partner_ids = shifted(ids)
    distance = (label_map[:, None] - shifted(label_map)).abs()
    both = (ids[:, None] > 0) & (partner_ids > 0)
    same = ids[:, None] == partner_ids
    loss = torch.where(same, huber_loss(distance, THETA), huber_loss((MARGIN - distance).relu(), THETA))
    return (loss * both).sum() / both.sum().clamp(min=1)


def brute_force_loss(label_map: Tensor, instance_ids: Tensor) -> Tensor:
    """Mean over all pairs, written out: a (P, P) matrix for every image."""
    losses = []
    for f, ids in zip(label_map, instance_ids, strict=True):
        f, ids = f[ids > 0], ids[ids > 0]
        distance = (f[:, None] - f).abs()
        same = ids[:, None] == ids
        loss = torch.where(same, huber_loss(distance, THETA), huber_loss((MARGIN - distance).relu(), THETA))
        losses.append(loss.sum() / (len(f) * (len(f) - 1)))
    return torch.stack(losses).mean()


def _methods(label_map: Tensor, instance_ids: Tensor, shape: tuple[int, int, int]) -> dict[str, Callable]:
    def backward(loss: Callable[..., Tensor], **options) -> Callable[[], None]:
        return lambda: loss(label_map, instance_ids, **options).backward()

    foreground_values = label_map.detach()[instance_ids > 0]
    methods = {
        "exact": backward(permutation_invariant_loss),
        "exact pairs": backward(permutation_invariant_loss, reduction="pairs"),
        "window 16": backward(permutation_invariant_loss, window=16),
        "sort alone": lambda: foreground_values.sort(),
        "stratified": backward(permutation_invariant_loss, pairs="stratified"),
        "random": backward(permutation_invariant_loss, pairs="random"),
    }
    if len(foreground_values) / len(label_map) <= MAX_BRUTE_FORCE_PIXELS:
        methods["brute force"] = backward(brute_force_loss)
    if shape in CONVOLUTION_MAPS:
        methods["convolution"] = backward(convolution_loss)
    return methods


def _measure_map(
    shape: tuple[int, int, int],
    instances: int,
    names: Sequence[str],
    repeats: int,
    device: torch.device,
    clock: Clock,
) -> dict:
    label_map, instance_ids = make_map(shape, instances, device)
    foreground = int((instance_ids > 0).sum())
    methods = _methods(label_map, instance_ids, shape)
    methods = {name: method for name, method in methods.items() if name in ("exact", *names)}
    milliseconds = interleaved(methods, repeats, clock, slow=SLOW)
    memory = {name: _peak_bytes(method, device) / foreground for name, method in methods.items()}
    return {
        "map": "x".join(map(str, shape)),
        "instances": instances,
        "foreground_pixels": foreground,
        "ms": {name: round(value, 3) for name, value in milliseconds.items()},
        "bytes_per_foreground_pixel": {name: round(value) for name, value in memory.items()},
    }


def _measure_growth(repeats: int, device: torch.device, clock: Clock) -> dict[str, float]:
    """Time of the exact loss by foreground pixels, and the exponent between the ends."""
    times = {}
    for pixels in GROWTH:
        side = math.ceil(math.sqrt(pixels / 0.4))
        label_map, instance_ids = make_map((side, side, 1), 8, device)
        exact = _methods(label_map, instance_ids, (side, side, 1))["exact"]
        # One size after the other: a large map empties the caches of the small one that follows.
        times[str(pixels)] = interleaved({"exact": exact}, repeats, clock)["exact"]
    exponent = math.log(times[str(GROWTH[-1])] / times[str(GROWTH[0])]) / math.log(GROWTH[-1] / GROWTH[0])
    return {name: round(value, 3) for name, value in times.items()} | {"exponent": round(exponent, 3)}


def _peak_bytes(method: Callable, device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        method()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        method()
    events = profiler.profiler.kineto_results.events()
    allocations = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = 0
    for _, size in allocations:
        live += size
        peak = max(peak, live)
    return peak + _numpy_peak_bytes(method)


def _numpy_peak_bytes(method: Callable) -> int:
    """NumPy reports its arrays to tracemalloc; torch does not. Buffers inside of a sort are in neither."""
    tracemalloc.start()
    try:
        method()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _format(rows: list[dict]) -> str:
    headers = ["map", "instances", "foreground", "method", "ms", "x exact", "B a foreground pixel"]
    cells = [
        [row["map"], row["instances"], row["foreground_pixels"], name, f"{ms:.2f}", f"{ms / row['ms']['exact']:.2f}"]
        + [f"{row['bytes_per_foreground_pixel'][name]:,}"]
        for row in rows
        for name, ms in row["ms"].items()
    ]
    return markdown_table(cells, headers)
