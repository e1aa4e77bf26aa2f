"""Detectron2's training loader, but a run that is continued gets the samples of an uninterrupted one."""

import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.build import check_metadata_consistency, filter_images_with_only_crowd_annotations
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from .dataset_errors import DatasetError
from .dataset_mapper import DVISDatasetMapper


def build_train_loader(cfg: CfgNode, mapper: Callable[[dict], Any] | None = None) -> DataLoader:
    """An endless loader of batches (lists of mapped dicts) over `cfg.DATASETS.TRAIN`.

    The p-th sample, augmentation included, depends only on `cfg.SEED` (a random one if negative) and on p: not on the
    number of workers. The global generators are left as they are. To continue a run, call :func:`set_start_iter`
    before the first batch. `mapper`: by default `DVISDatasetMapper`.

    DatasetError where no image has an object; ValueError where `SAMPLER_TRAIN` is not "TrainingSampler", or the batch
    cannot be divided among the processes.
    """
    if cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler":
        advice = 'a run with it could not be continued where it stopped; set it to "TrainingSampler"'
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN is {cfg.DATALOADER.SAMPLER_TRAIN!r}: {advice}")
    total_batch, processes = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size()
    if total_batch < 1 or total_batch % processes:
        raise ValueError(f"SOLVER.IMS_PER_BATCH is {total_batch}, no positive multiple of the {processes} processes")

    dicts = _training_dicts(cfg)
    group_ids = [int(d["width"] > d["height"]) for d in dicts] if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    sampler = ResumableTrainingSampler(len(dicts), seed=seed, group_ids=group_ids, batch_size=total_batch // processes)
    dataset = SeededDataset(DatasetFromList(dicts, copy=False), mapper or DVISDatasetMapper(cfg, is_train=True), seed)
    # a seed, as the loader would draw one from torch's global generator; the groups are the sampler's work
    options = {"num_workers": cfg.DATALOADER.NUM_WORKERS, "seed": seed, "aspect_ratio_grouping": False}
    return build_detection_train_loader(dataset, mapper=None, sampler=sampler, total_batch_size=total_batch, **options)


def set_start_iter(loader: DataLoader, start_iter: int) -> None:
    """Let the next iteration over a loader of :func:`build_train_loader` begin with batch `start_iter` (0-based)."""
    stream: Any = loader.dataset
    stream.sampler.start = start_iter * (loader.batch_size or 1)


def loaded_dicts(loader: DataLoader) -> list[dict]:
    """The dataset dicts of a loader of :func:`build_train_loader`, none of another."""
    samples = getattr(getattr(loader, "dataset", None), "dataset", None)
    return list(samples.dataset) if isinstance(samples, SeededDataset) else []


@dataclass(frozen=True)
class Sample:
    index: int  # into the data set
    position: int  # in the endless shuffled stream that all processes share


class ResumableTrainingSampler(TrainingSampler):
    """Detectron2's endless shuffled stream, shared among the processes, with positions and a starting point. Every
    `batch_size` consecutive samples of a process belong to one of the `group_ids` (one for each of `size` images):
    Detectron2 groups in the loader, which would lose half-filled groups at a restart."""

    def __init__(
        self, size: int, *, seed: int | None = None, group_ids: Sequence[int] | None = None, batch_size: int = 1
    ):
        super().__init__(size, seed=seed)
        self._group_ids, self._batch_size = group_ids or [0] * size, batch_size
        self.start = 0  # how many samples of this process the next iteration leaves out

    def __iter__(self) -> Iterator[Sample]:
        positions = itertools.count(self._rank, self._world_size)
        indices = itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)
        return itertools.islice(self._grouped(map(Sample, indices, positions)), self.start, None)

    def _grouped(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        waiting: dict[int, list[Sample]] = defaultdict(list)
        for sample in samples:
            group = waiting[self._group_ids[sample.index]]
            group.append(sample)
            if len(group) == self._batch_size:
                yield from group
                group.clear()


class SeededDataset(Dataset):
    """Maps one sample of the stream with all global generators seeded by (seed, position) meanwhile."""

    def __init__(self, dataset: DatasetFromList, mapper: Callable[[dict], Any], seed: int):
        self.dataset, self.mapper, self.seed = dataset, mapper, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, sample: Sample) -> Any:
        with temporary_seed(self.seed, sample.position):
            return self.mapper(self.dataset[sample.index])


@contextlib.contextmanager
def temporary_seed(*entropy: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generator from integers >= 0, and put their states back afterwards."""
    of_python, of_numpy, of_torch = np.random.SeedSequence(entropy).generate_state(3).tolist()
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        random.seed(of_python)
        np.random.seed(of_numpy)
        torch.default_generator.manual_seed(of_torch)  # torch.manual_seed also seeds every accelerator, slowly
        yield


def _training_dicts(cfg: CfgNode) -> list[dict]:
    names = cfg.DATASETS.TRAIN
    if not names:
        raise DatasetError("DATASETS.TRAIN is empty: name a registered data set, or give --train-json")
    if all(hasattr(MetadataCatalog.get(name), "thing_classes") for name in names):
        check_metadata_consistency("thing_classes", names)
    # One by one: together, Detectron2 takes all of them to have annotations if the first has.
    dicts = [d for name in names for d in get_detection_dataset_dicts(name, filter_empty=False)]
    in_files = [d for d in dicts if "instance_label_file" in d]  # taken to have objects, without being opened
    if not in_files and not any(a.get("iscrowd", 0) == 0 for d in dicts for a in d.get("annotations", ())):
        found = f"no image of {', '.join(names)} has an object to learn from (crowds do not count)"
        raise DatasetError(f"{found}; check the annotations with `dvis check`")
    if not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return dicts
    return in_files + filter_images_with_only_crowd_annotations([d for d in dicts if "instance_label_file" not in d])
