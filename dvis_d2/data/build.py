"""The training loader: Detectron2's, but a run that is continued gets the images and the augmentations that
an uninterrupted run gets."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.build import check_metadata_consistency, filter_images_with_only_crowd_annotations
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from .dataset_mapper import DVISDatasetMapper
from .report import DatasetError
from .samplers import ResumableTrainingSampler, Sample
from .seen_classes import keep_seen_classes


def build_train_loader(cfg: CfgNode, mapper: Callable[[dict], Any] | None = None) -> DataLoader:
    """An endless loader of batches (lists of mapped dicts) over `cfg.DATASETS.TRAIN`.

    The p-th sample of the stream, augmentation included, depends only on the seed and on p: not on the number
    of workers, not on what was drawn before. The seed is `cfg.SEED`, or a random one if that is negative.
    Python's, NumPy's and torch's global generators are left as they are. Call :func:`set_start_iter` before
    the first batch to continue a run.

    Args:
        cfg: reads `DATASETS.TRAIN`, `DATASETS.SEEN_CLASSES`, `SOLVER.IMS_PER_BATCH`, `SEED` and, in `DATALOADER`,
            `NUM_WORKERS`, `ASPECT_RATIO_GROUPING`, `FILTER_EMPTY_ANNOTATIONS` and `SAMPLER_TRAIN`.
        mapper: default: `DVISDatasetMapper(cfg, is_train=True)`.

    Raises:
        DatasetError: no data set is named, none of its images has an object, or a seen class does not exist.
        ValueError: `SAMPLER_TRAIN` is not "TrainingSampler", or the batch cannot be divided among the
            processes.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN is {cfg.DATALOADER.SAMPLER_TRAIN!r}: a run with it could not be "
            'continued where it stopped; set it to "TrainingSampler"'
        )
    total_batch, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if total_batch < 1 or total_batch % processes:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {total_batch}: give a multiple of the {processes} processes")

    dicts = _training_dicts(cfg)
    group_ids = [int(d["width"] > d["height"]) for d in dicts] if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = ResumableTrainingSampler(len(dicts), seed=seed, group_ids=group_ids, batch_size=total_batch // processes)
    mapper = mapper or DVISDatasetMapper(cfg, is_train=True)
    return build_detection_train_loader(
        SeededDataset(DatasetFromList(dicts, copy=False), mapper, seed),
        mapper=None,
        sampler=sampler,
        total_batch_size=total_batch,
        aspect_ratio_grouping=False,  # the sampler's work, see there
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=seed,  # otherwise the loader draws its own seed from torch's global generator
    )


def set_start_iter(loader: DataLoader, start_iter: int) -> None:
    """Let the next iteration over a loader of :func:`build_train_loader` begin with batch `start_iter`
    (0-based).

    Has no effect on an iteration that is running already.
    """
    loader.dataset.sampler.set_start(start_iter * loader.batch_size * comm.get_world_size())


class SeededDataset(Dataset):
    """Maps one sample of the stream with all global generators seeded by (seed, position) meanwhile."""

    def __init__(self, dataset: Dataset, mapper: Callable[[dict], Any], seed: int):
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, sample: Sample) -> Any:
        with temporary_seed(self.seed, sample.position):
            return self.mapper(self.dataset[sample.index])


@contextlib.contextmanager
def temporary_seed(*entropy: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generator from integers >= 0, and put their states back
    afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = [int(s) for s in np.random.SeedSequence(entropy).generate_state(3)]
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    # Not torch.manual_seed, which also seeds every accelerator, and slowly so in a worker process.
    torch.default_generator.manual_seed(seeds[2])
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _training_dicts(cfg: CfgNode) -> list[dict]:
    names = cfg.DATASETS.TRAIN
    if not names:
        raise DatasetError("DATASETS.TRAIN is empty: name a registered data set, or give --train-json")
    if all(hasattr(MetadataCatalog.get(name), "thing_classes") for name in names):
        check_metadata_consistency("thing_classes", names)
    # One by one: together, Detectron2 takes all of them to have annotations if the first has.
    dicts = []
    for name in names:
        own = get_detection_dataset_dicts(name, filter_empty=False)
        if cfg.DATASETS.SEEN_CLASSES:
            class_names = MetadataCatalog.get(name).thing_classes
            own = keep_seen_classes(own, class_names, cfg.DATASETS.SEEN_CLASSES, dataset_name=name)
        dicts += own
    in_files = [d for d in dicts if "instance_label_file" in d]  # taken to have objects, without being opened
    if not in_files and not any(a.get("iscrowd", 0) == 0 for d in dicts for a in d.get("annotations", ())):
        raise DatasetError(
            f"no image of {', '.join(names)} has an object to learn from (crowds do not count); "
            "check the annotations with tools/check_dataset.py"
        )
    if not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return dicts
    return in_files + filter_images_with_only_crowd_annotations([d for d in dicts if "instance_label_file" not in d])
