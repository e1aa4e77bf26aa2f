"""Seconds an iteration of training, DVIS and Detectron2's Mask R-CNN, and what of it is the variational loss.

An iteration is forward, backward and optimizer step on one batch of drawn images with ground truth, as `train_net.py`
takes it (optimizer, mixed precision and clipping of the config; a learning rate so small that nothing changes).
Both models have random weights; DVIS's label map is replaced by that of a good network (gradients flow as if it were
its own), so that all terms of the loss and the heads have their work, and Mask R-CNN's RPN has 8 boxes near every
object among its proposals.

Beside it: the loss alone, forward and backward, on the same label map, once all terms of the criterion and once the
permutation-invariant term; and the data loader alone, with the mapper in this process.

Repeats are interleaved; times are medians.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from torch import Tensor

from dvis_d2.data import build_train_loader, register_coco_json, write_shapes
from dvis_d2.engine import Trainer
from dvis_d2.modeling.losses import permutation_invariant_loss

from ..tables import markdown_table
from .common import (
    OBJECTS,
    ROOT,
    Clock,
    add_clock_arguments,
    calm,
    clock_setting,
    dvis_cfg,
    good_label_map,
    inject_boxes,
    inject_label_map,
    interleaved,
    make_clock,
    map_ids,
    mask_rcnn_cfg,
)

# config, side in px of the stored images and of the network's input, batch
SETTINGS = {"shapes": ("configs/shapes/shapes.yaml", 128, 128, 8), "coco": ("configs/dvis_R50.yaml", 500, 700, 1)}
BOXES_AN_OBJECT = 8  # of a trained RPN, with an IoU above 0.5
DATASET = "benchmark_train"
TIMES = ("dvis_ms", "loss_ms", "pairwise_ms", "mask_rcnn_ms", "loader_ms")  # of the result, in the table's order


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--setting", choices=SETTINGS, default="shapes", help="; ".join(f"{k}: {v[0]}" for k, v in SETTINGS.items())
    )
    parser.add_argument("--config-file", help="instead of the setting's")
    parser.add_argument("--size", type=int, help="of the square input in pixels, instead of the setting's")
    parser.add_argument("--batch", type=int, help="images, instead of the setting's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--mask-rcnn-samples",
        type=int,
        default=512,
        help="proposals an image that its heads train on [Detectron2's 512]",
    )
    add_clock_arguments(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="for the config, after a `--`")


def run(args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    clock = make_clock(args)
    config_file, stored_size, size, batch_size = SETTINGS[args.setting]
    cfg = dvis_cfg(args.config_file or ROOT / config_file, args.opts, args.device)
    with tempfile.TemporaryDirectory() as folder:
        _set_up(cfg, folder, args.size or size, args.batch or batch_size)
        num_images = max(8, 2 * cfg.SOLVER.IMS_PER_BATCH)
        _draw(Path(folder), min(stored_size, cfg.INPUT.MAX_SIZE_TRAIN), num_images)
        try:
            batch, loader_ms = _time_loader(cfg, args.repeats, clock)
            result = _time_steps(cfg, batch, args.mask_rcnn_samples, args.repeats, clock)
        finally:
            DatasetCatalog.remove(DATASET)
            MetadataCatalog.remove(DATASET)
    workers = cfg.DATALOADER.NUM_WORKERS
    result["loader_ms"] = round(loader_ms, 2)
    result["loader_workers"] = workers
    # With workers the next batch is made while the network trains, without any it is waited for.
    result["loader_is_bottleneck"] = loader_ms / max(workers, 1) > result["dvis_ms"]
    _print(result)
    setting = {"size": cfg.INPUT.MAX_SIZE_TRAIN, "batch": cfg.SOLVER.IMS_PER_BATCH, "amp": cfg.SOLVER.AMP.ENABLED}
    return result | setting | {"setting": args.setting, "opts": args.opts} | clock_setting(args)


def _set_up(cfg: CfgNode, folder: str, size: int, batch: int) -> None:
    cfg.OUTPUT_DIR = folder
    cfg.VIS_PERIOD = 0
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (DATASET,), ()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (size,), size
    cfg.INPUT.CROP.ENABLED = False
    cfg.SOLVER.IMS_PER_BATCH = batch
    cfg.SOLVER.BASE_LR = 1e-20  # the weights stay as they are; 0 the schedules cannot divide by


def _draw(folder: Path, size: int, num_images: int) -> None:
    options = {"height": size, "width": size, "num_objects": (OBJECTS, OBJECTS)}
    annotations = write_shapes(folder / "shapes", num_images=num_images, seed=0, progress=False, **options)
    register_coco_json(DATASET, annotations, annotations.parent / "images")


def _time_loader(cfg: CfgNode, repeats: int, clock: Clock) -> tuple[list[dict], float]:
    """A batch, and the median milliseconds of making one in this process."""
    cfg = cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = 0
    batches = iter(build_train_loader(cfg))
    batch = next(batches)
    times = []
    for _ in range(repeats):
        start = clock()
        next(batches)
        times.append(1000 * (clock() - start))
    return batch, statistics.median(times)


def _time_steps(cfg: CfgNode, batch: list[dict], rival_samples: int, repeats: int, clock: Clock) -> dict:
    class OneBatchTrainer(Trainer):
        @classmethod
        def build_train_loader(cls, cfg):
            return itertools.repeat(batch)

    rival_cfg = mask_rcnn_cfg(cfg)
    rival_cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = rival_samples
    dvis, rival = OneBatchTrainer(cfg), OneBatchTrainer(rival_cfg)
    for trainer in (dvis, rival):
        calm(trainer.model)
        trainer.iter = cfg.SOLVER.MAX_ITER - 1  # all terms of the loss take part
    ids = map_ids(dvis.model, batch)
    label_map = good_label_map(ids)
    inject_label_map(dvis.model, label_map)
    inject_boxes(rival.model, [_boxes_near(x["instances"].gt_boxes.tensor.to(ids.device)) for x in batch])

    criterion = dvis.model.proposal_generator.criterion
    leaf = label_map.clone().requires_grad_()
    storages = [EventStorage(dvis.iter), EventStorage(dvis.iter)]
    methods = {
        "dvis_ms": lambda: _step(dvis, storages[0]),
        "mask_rcnn_ms": lambda: _step(rival, storages[1]),
        "loss_ms": lambda: sum(criterion(leaf, ids, dvis.iter).values()).backward(),
        "pairwise_ms": lambda: permutation_invariant_loss(leaf, ids, **criterion.pi_options).backward(),
    }
    ms = interleaved(methods, repeats, clock)
    return {name: round(value, 2) for name, value in ms.items()} | {
        "ratio": round(ms["dvis_ms"] / ms["mask_rcnn_ms"], 4),
        "loss_share": round(ms["loss_ms"] / ms["dvis_ms"], 4),
        "pairwise_share": round(ms["pairwise_ms"] / ms["dvis_ms"], 4),
        "map": "x".join(map(str, ids.shape)),
        "dvis_samples": _samples(storages[0]),
        "mask_rcnn_samples": _samples(storages[1]),
    }


def _step(trainer: Trainer, storage: EventStorage) -> None:
    with storage:
        trainer.run_step()


def _samples(storage: EventStorage) -> dict[str, float]:
    """What the heads trained on in the latest iteration, an image."""
    return {kind: storage.latest()[f"roi_head/num_{kind}_samples"][0] for kind in ("fg", "bg")}


def _boxes_near(boxes: Tensor) -> Tensor:
    """(8 K, 4): every box 8 times, its corners moved by at most a twelfth of its size, so that an IoU of at least 0.5
    is left."""
    generator = torch.Generator().manual_seed(0)
    boxes = boxes.repeat(BOXES_AN_OBJECT, 1)
    jitter = (torch.rand(boxes.shape, generator=generator).to(boxes) * 2 - 1) / 12
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + jitter * size


def _print(result: dict) -> None:
    shares = {"DVIS": 1.0, "its loss": result["loss_share"], "its permutation-invariant term": result["pairwise_share"]}
    rows = [
        [name, f"{result[key]:.1f}", f"{shares[name]:.2%}" if name in shares else ""]
        for name, key in zip([*shares, "Mask R-CNN", "mapper and loader"], TIMES, strict=True)
    ]
    print(markdown_table(rows, ["", "ms an iteration", "of DVIS"]))
    print(
        f"label map {result['map']}; DVIS takes {result['ratio']:.2f} times as long as Mask R-CNN; the loader, with "
        f"{result['loader_workers']} workers, is {'' if result['loader_is_bottleneck'] else 'not '}the bottleneck"
    )
