"""Time of a trained model by torch and by the runtime of its export, part by part, beside Detectron2's Mask R-CNN.

On drawn square images of 8 objects, at the network's own scale; both find the same masks. Mask R-CNN has random weights
and the ResNet and FPN of the model, and what decides about its work is injected (see `inference`): the boxes that DVIS
proposes, among 1,000. Parts: network (with preprocessing), grouping, heads (with suppression), masks. "compiled" is the
network by torch.compile, of which nothing else changes; "int8" the runtime with a quantized network, see
quantized_export.py, whose ranges are those of the drawn images. Repeats are interleaved; times are medians.

Then, each in a process of its own: CPU seconds until the model is loaded and until the first masks, and the peak memory
(Linux). The runtime's has neither torch nor Detectron2.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

import dvis_d2
from dvis_d2 import runtime as runtime_module
from dvis_d2.model_export import export_model
from dvis_d2.runtime import Runtime

from ..quantized_export import quantize_label_map
from ..tables import markdown_table
from .common import ROOT, Clock, add_clock_arguments, build, clock_setting, draw_batch, make_clock, mask_rcnn_cfg
from .inference import Stopwatch, inject_mask_rcnn

PARTS = ("network", "grouping", "heads", "masks")
FIRST_MASKS = """
import re, sys, time
kind, path, image = sys.argv[1:]
if kind == "runtime":
    sys.modules |= dict.fromkeys(["torch", "torchvision", "detectron2"])
    from dvis_d2.runtime import Runtime
    model = Runtime(path, threads=1)
else:
    import torch
    torch.set_num_threads(1)
    import dvis_d2
    model = dvis_d2.load(path, device="cpu")
loaded = time.process_time()
found = len(model.predict(image))
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(loaded, time.process_time(), peak, found)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="shapes", help="as for `dvis export`")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 512, 700], help="of the square input, in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="the network by torch.compile too")
    parser.add_argument("--int8", action="store_true", help="the runtime with a quantized network too")
    add_clock_arguments(parser)


def run(args: argparse.Namespace) -> dict:
    if args.device != "cpu":
        raise ValueError("the runtime is measured on the CPU: give --device cpu")
    clock = make_clock(args)
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        export_model(args.model, path)
        exported, quantized = Runtime(path, threads=threads), None
        if args.int8:
            drawn = (x["image"].permute(1, 2, 0).numpy() for x in draw_batch(args.sizes[-1], 4))
            quantize_label_map(path, f"{path}.int8.onnx", map(exported.network.padded, drawn))
            quantized = Runtime(f"{path}.int8.onnx", threads=threads)
        rows = [_measure(args, size, exported, quantized, clock) for size in args.sizes]
        starts = _first_masks(args, path, folder)
    cells = [
        [row["size"], name, *(f"{ms:.1f}" for ms in of["ms"].values()), f"{of['total_ms']:.1f}", of["objects"]]
        for row in rows
        for name, of in row["methods"].items()
    ]
    print(markdown_table(cells, ["px", "", *PARTS, "total", "objects"]))
    for name, figures in starts.items():
        print(f"{name}: {figures}")
    return clock_setting(args) | {"model": args.model, "rows": rows, "first_masks": starts}


class RuntimeWatch:
    """Times the parts of the runtime by wrapping what it calls."""

    def __init__(self, network: Any, clock: Clock):
        self.network, self.clock, self.spent = network, clock, defaultdict(float)

    def _timed(self, name: str, function: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.clock()
            result = function(*args, **kwargs)
            self.spent[name] += 1000 * (self.clock() - start)
            return result

        return timed

    def __call__(self, pixels: np.ndarray) -> list[float]:
        """Milliseconds of every part of one run; the heads are the rest of the whole."""
        self.spent.clear()
        call, network = self.network.call, self._timed("network", self.network.call)
        group = self._timed("grouping", runtime_module.group_label_map)
        with (
            mock.patch.object(self.network, "call", lambda names, **x: (network if "image" in x else call)(names, **x)),
            mock.patch.object(runtime_module, "group_label_map", group),
            mock.patch.object(runtime_module, "final_masks", self._timed("masks", runtime_module.final_masks)),
        ):
            start = self.clock()
            self.found, _ = self.network.run(pixels, pixels.shape[:2], 0, False)
            total = 1000 * (self.clock() - start)
        named = {name: self.spent[name] for name in ("network", "grouping", "masks")}
        return [named["network"], named["grouping"], total - sum(named.values()), named["masks"]]


def _measure(args: argparse.Namespace, size: int, exported: Runtime, quantized: Runtime | None, clock: Clock) -> dict:
    batch = draw_batch(size, 1)
    if exported.cfg.INPUT.FORMAT == "BGR":
        batch[0]["image"] = batch[0]["image"].flip(0)
    pixels = batch[0]["image"].permute(1, 2, 0).numpy()
    eager = dvis_d2.load(args.model, device="cpu", opts=["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.5"])
    exported.network.score_threshold = 0.5
    watch, own = Stopwatch(eager.network, clock), RuntimeWatch(exported.network, clock)
    with torch.no_grad():
        proposals = eager.network.inference(batch, intermediate=True)[0]["proposals"]
    rival = build(mask_rcnn_cfg(eager.cfg))
    inject_mask_rcnn(rival, [proposals.proposal_boxes.tensor])
    rival_watch = Stopwatch(rival, clock)

    def of_torch(watch: Stopwatch) -> list[float]:
        preprocess, backbone, label_head, grouping, heads, masks = watch(batch)
        return [preprocess + backbone + label_head, grouping, heads, masks]

    def of_rival() -> list[float]:
        preprocess, backbone, rpn, heads, masks = rival_watch(batch)
        return [preprocess + backbone, rpn, heads, masks]

    methods = {"torch": lambda: of_torch(watch), "runtime": lambda: own(pixels), "Mask R-CNN": of_rival}
    if quantized:
        quantized.network.score_threshold = 0.5
        quantized_watch = RuntimeWatch(quantized.network, clock)
        methods["int8"] = lambda: quantized_watch(pixels)
    if args.compile:
        compiled = dvis_d2.load(args.model, device="cpu", opts=["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.5"])
        compiled_watch = Stopwatch(compiled.network, clock)
        compiled.network.backbone.compile()
        compiled.network.proposal_generator.label_head.compile()
        methods["compiled"] = lambda: of_torch(compiled_watch)
    times: dict[str, list[list[float]]] = {name: [] for name in methods}
    for repeat in range(args.repeats + 1):
        for name, method in methods.items():
            parts = method()
            if repeat:  # the first call does not count
                times[name].append(parts)
    result = {}
    for name, parts in times.items():
        medians = [statistics.median(column) for column in zip(*parts, strict=True)]
        objects = len(own.found) if name == "runtime" else ""
        totals = statistics.median(map(sum, parts))
        result[name] = {"ms": dict(zip(PARTS, medians, strict=True)), "total_ms": totals, "objects": objects}
    return {"size": size, "proposals": len(proposals), "methods": result}


def _first_masks(args: argparse.Namespace, path: str, folder: str) -> dict[str, dict[str, float]]:
    found = {}
    image = os.path.join(folder, "image.png")
    cv2.imwrite(image, draw_batch(128, 1)[0]["image"].permute(1, 2, 0).numpy()[:, :, ::-1])
    for kind, model in (("torch", args.model), ("runtime", path)):
        rows = []
        for _ in range(3):
            command = [sys.executable, "-c", FIRST_MASKS, kind, str(Path(model)) if kind == "runtime" else model, image]
            run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            rows.append([float(word) for word in run.stdout.split()[-4:]])
        names = ("loaded_s", "first_masks_s", "peak_mib", "objects")
        found[kind] = dict(zip(names, (round(min(column), 2) for column in zip(*rows, strict=True)), strict=True))
    return json.loads(json.dumps(found))
