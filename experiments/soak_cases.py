"""The kinds of cases of :mod:`experiments.soak`. A case is its seed; it raises what it finds."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.events import EventStorage
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dvis_d2.config import find_config
from dvis_d2.data import DVISDatasetMapper, check_coco_json
from dvis_d2.data.annotations import encode_masks
from dvis_d2.data.custom import register_coco_json
from dvis_d2.engine import Trainer, argument_parser, setup_cfg
from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.hierarchy import find_hierarchy
from dvis_d2.modeling.losses import binary_loss, mumford_shah_loss, permutation_invariant_loss, quantization_loss
from dvis_d2.modeling.mean_shift import mean_shift_1d

from .jobs import ONE_THREAD

JUNK = json.loads(
    '[null, true, 0, 1, -1, 1.5, 1e8, 1e308, NaN, 9223372036854775808, "", "1", "a/../b", "\\u001b[31m", [], [[]], {}, '
    "[0, 0, 0, 0, 0, 0, 0]]"
)
TINY = """
    MODEL.DEVICE cpu MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 8 MODEL.FPN.OUT_CHANNELS 16
    MODEL.LABEL_MAP_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.CONV_DIM 16 MODEL.ROI_BOX_HEAD.FC_DIM 16
    MODEL.ROI_MASK_HEAD.CONV_DIM 16 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2
    SOLVER.WARMUP_ITERS 0 SOLVER.AMP.ENABLED False SOLVER.MAX_ITER 6 SOLVER.CHECKPOINT_PERIOD 2 VIS_PERIOD 0
    DATALOADER.NUM_WORKERS 0
""".split()


def losses(seed: int) -> None:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = rng.randint(1, 3), rng.randint(1, 8), rng.randint(1, 8)
    scale = rng.choice([0.01, 1.0, 3.0, 1e6])
    label_map = (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).requires_grad_()
    ids = torch.randint(rng.choice([-1, 0, 1]), rng.randint(2, 6), shape, generator=generator)
    ids = torch.where(ids > 0, ids + rng.choice([0, 0, 2**40, 2**63 - 10]), ids)
    options = {"margin": rng.choice([0.3, 1.0, 4.0]), "theta": rng.choice([0.1, 0.5, 2.0])}
    options |= {"different_weight": rng.choice([0.0, 1.0, 2.5]), "background_as_instance": rng.random() < 0.3}
    reduction = rng.choice(["instances", "pairs"])
    expected = pair_sums(label_map, ids, reduction=reduction, **options)
    (expected_slope,) = torch.autograd.grad(expected, label_map)
    wide = 2 * max(shape) + 3
    for pairs in ({}, {"pairs": "stratified", "window": wide, "center": wide}):
        loss = permutation_invariant_loss(label_map, ids, reduction=reduction, **options, **pairs)
        (slope,) = torch.autograd.grad(loss, label_map)
        torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(slope, expected_slope, rtol=1e-6, atol=1e-9)
    large = (label_map.detach() * 10.0 ** rng.randint(0, 38) / scale / 10).float().clamp(-1e38, 1e38).requires_grad_()
    terms = [binary_loss(large, ids, area_exponent=rng.choice([0.0, 0.5, 50.0])), quantization_loss(large, ids)]
    terms += [mumford_shah_loss(large, ids, kind=kind) for kind in ("cauchy", "truncated", "welsch")]
    terms += [permutation_invariant_loss(large, ids, pairs=pairs) for pairs in ("exact", "stratified", "random")]
    for term in terms:
        assert torch.isfinite(term) and torch.isfinite(torch.autograd.grad(term, large)[0]).all(), term


def pair_sums(f: Tensor, ids: Tensor, *, margin, theta, reduction, different_weight, background_as_instance) -> Tensor:
    """:func:`permutation_invariant_loss` with every pair written out."""

    def huber(x: Tensor) -> Tensor:
        return torch.where(x < theta, x.square() / (2 * theta), x - theta / 2)

    means: dict[str, list[Tensor]] = {"same": [], "different": [], "pairs": []}
    for values, own in zip(f.flatten(1), ids.flatten(1), strict=True):
        keep = own >= (0 if background_as_instance else 1)
        values, own = values[keep], own[keep]
        equal, upper = own[:, None] == own, torch.ones(len(own), len(own)).triu(1).bool()
        weight = 1 / equal.sum(1).double() if reduction == "instances" else torch.ones_like(values)
        distance, weights = (values[:, None] - values).abs(), weight[:, None] * weight
        same, different = upper & equal, upper & ~equal
        cost_same = (huber(distance) * weights)[same].sum()
        cost_different = (huber((margin - distance).relu()) * weights)[different].sum()
        if same.any():
            means["same"].append(cost_same / weights[same].sum())
        if different.any():
            means["different"].append(cost_different / weights[different].sum())
        if upper.any():
            means["pairs"].append((cost_same + different_weight * cost_different) / weights[upper].sum())
    of = {kind: sum(found) / len(found) if found else (f * 0).sum() for kind, found in means.items()}
    return of["pairs"] if reduction == "pairs" else of["same"] + different_weight * of["different"]


def groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, height, width = rng.integers(1, 4), *rng.integers(1, 20, 2)
    maps = rng.integers(0, 5, (count, height, width)) * rng.choice([0.3, 1.0])
    maps = maps + rng.normal(0, rng.choice([0, 0.02, 0.3]), maps.shape)
    maps = maps.repeat(2, 1).repeat(2, 2)
    label_map = torch.from_numpy(maps).float()
    if rng.random() < 0.1:
        label_map[0, 0, 0] = float(rng.choice([np.nan, np.inf, -np.inf, 1e38]))
    found = group_label_map(label_map)
    for alone, group in zip(label_map, found, strict=True):
        (own,) = group_label_map(alone[None])
        assert torch.equal(own.masks, group.masks) and torch.equal(own.scores, group.scores)
        assert torch.isfinite(group.values).all() and group.masks.flatten(1).any(1).all()
        assert (group.scores.diff() <= 0).all()
        assert ((group.scores >= 0) & (group.scores <= 1)).all() and ((group.soft >= 0) & (group.soft <= 1)).all()
        assert (alone[group.masks.any(0)] > 1).all() and len(group.masks.unique(dim=0)) == len(group)
    labels = label_map[0].nan_to_num(0.0, 0.0, 0.0).numpy()
    regions = find_hierarchy(labels, labels > 1, 0.25)
    roots = [regions.cells[a:b] for a, b in zip(regions.start, regions.stop, strict=True)]
    whole = {np.isin(np.arange(labels.size), roots[k]).tobytes() for k in np.flatnonzero(regions.parent < 0)}
    assert whole == components(labels)


def components(labels: np.ndarray) -> set[bytes]:
    """The components of 4-neighbors above 1."""
    foreground, number, edges = labels > 1, np.arange(labels.size).reshape(labels.shape), []
    for low, high in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        linked = foreground[low] & foreground[high]
        edges.append([number[low][linked], number[high][linked]])
    rows, columns = np.concatenate(edges, axis=1)
    graph = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(labels.size,) * 2)
    names = connected_components(graph, directed=False)[1].reshape(labels.shape)
    return {(names == name).tobytes() for name in np.unique(names[foreground])}


def modes(seed: int) -> None:
    """No value has to go down on the way to its mode, and between two modes there is a valley."""
    rng = np.random.default_rng(seed)
    bandwidth = float(rng.choice([0.9, 0.4, 0.05]))
    values = torch.from_numpy(rng.normal(rng.integers(0, 6, rng.integers(1, 60)), rng.choice([0.02, 0.2, 1.0])))
    weights = torch.from_numpy(10.0 ** rng.uniform(-3, 3, len(values)) if rng.random() < 0.5 else np.ones(len(values)))
    found, assignment = mean_shift_1d(values, bandwidth, weights=weights)

    def density(start: float, end: float) -> Tensor:
        x = torch.linspace(start, end, 2 + int(200 * abs(end - start) / bandwidth), dtype=torch.float64)
        return torch.exp(-0.5 * ((x[:, None] - values) * 3 / bandwidth) ** 2) @ (weights / weights.max())

    for value, mode in zip(values.tolist(), found[assignment].tolist(), strict=True):
        way = density(value, mode)
        assert (way.cummax(0).values - way).max() <= 1e-3 * way.max() + 1e-9, (value, mode)
    for low, high in zip(found[:-1].tolist(), found[1:].tolist(), strict=True):
        way = density(low, high)
        assert way.min() < min(way[0], way[-1]) or way.max() < 1e-9, (low, high)


def files(seed: int) -> None:
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = write_data(Path(folder), seed)
        data = json.loads(path.read_text())
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            damage(data, rng)
        path.write_text(json.dumps(data))
        image = Path(folder) / f"{rng.randrange(3)}.png"
        content = bytearray(image.read_bytes())
        if rng.random() < 0.3:
            content[rng.randrange(len(content))] = rng.randrange(256)
        image.write_bytes(content[: rng.choice([None, None, rng.randrange(len(content))])])
        report = check_coco_json(path)
        str(report)
        if report.errors:
            return
        cfg, model = tiny_model()
        register_coco_json("soak", str(path), report.image_root, report.categories)
        mapper, inputs = DVISDatasetMapper(cfg, is_train=True), []
        for record in DatasetCatalog.get("soak"):
            try:
                inputs.append(mapper(record))
            except (OSError, ValueError) as error:  # broken pixels, which a check of the headers cannot find
                assert os.path.basename(record["file_name"]) in str(error), f"{error!r} does not name the file"
        with EventStorage():
            assert all(torch.isfinite(loss) for loss in model(inputs).values()) if inputs else True


def write_data(folder: Path, seed: int) -> Path:
    """A data set of three images and six objects, as polygons and as RLE."""
    rng, images, annotations = np.random.default_rng(seed), [], []
    for i in range(3):
        picture = rng.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        for k in range(2):
            y, x, side = int(rng.integers(4, 30)), 4 + 30 * k, int(rng.integers(14, 24))
            mask = np.zeros((1, 64, 64), bool)
            mask[0, y : y + side, x : x + side] = True
            picture[mask[0]] = (40, 220, 90 + 100 * k)
            code: dict | list = encode_masks(mask)[0]
            code = (
                {**code, "counts": code["counts"].decode()}
                if i
                else [[x, y, x + side, y, x + side, y + side, x, y + side]]
            )
            box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0, "segmentation": code}
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1, "category_id": k + 1} | box)
        cv2.imwrite(str(folder / f"{i}.png"), picture)
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 64, "width": 64})
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    (folder / "data.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return folder / "data.json"


def damage(node: dict | list, rng: random.Random) -> None:
    """Replace, remove or repeat one value anywhere in the tree."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = rng.choice(keys)
    value = node[key]
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        damage(value, rng)
    elif (kind := rng.random()) < 0.1:
        del node[key]
    elif kind < 0.3 and isinstance(value, str) and value:  # of an RLE, for one
        i = rng.randrange(len(value))
        node[key] = value[:i] + rng.choice(["", chr(rng.randrange(48, 112)), "é"]) + value[i + rng.randint(0, 1) :]
    elif kind < 0.5 and isinstance(value, int | float):
        node[key] = value * rng.choice([0, -1, 0.5, 100, 1e-3, 1e12])
    else:
        node[key] = copy.deepcopy(rng.choice(JUNK))


@functools.cache
def tiny_model():
    arguments = ["--config-file", find_config("shapes/Base-shapes.yaml"), *TINY, "MODEL.ROI_HEADS.NUM_CLASSES", "8"]
    cfg = setup_cfg(argument_parser().parse_args(arguments))
    return cfg, Trainer.build_model(cfg).train()


def kills(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, rng = write_data(Path(folder), seed), random.Random(seed)

        def train(output: str, seconds: float | None = None) -> bool:
            command = [sys.executable, "-m", "dvis_d2", "train", "--config-file", "shapes/Base-shapes.yaml", "--resume"]
            command += ["--train-json", str(path), *TINY, "OUTPUT_DIR", f"{folder}/{output}"]
            with subprocess.Popen(command, env=os.environ | ONE_THREAD, stdout=log, stderr=log) as process:
                try:
                    process.wait(seconds)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
            return process.returncode == 0

        with open(f"{folder}/log", "w+") as log:
            start = time.monotonic()
            assert train("whole"), Path(log.name).read_text()[-2000:]
            whole = time.monotonic() - start
            for _ in range(rng.randint(1, 4)):
                train("killed", whole * rng.uniform(0.3, 1.1))
            assert train("killed"), Path(log.name).read_text()[-2000:]
            ends = [
                torch.load(f"{folder}/{name}/model_final.pth", weights_only=True)["model"]
                for name in ("whole", "killed")
            ]
            assert ends[0].keys() == ends[1].keys()
            assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items()), "weights differ"


CASES: dict[str, Callable[[int], None]] = {f.__name__: f for f in (losses, groups, modes, files, kills)}
