"""A training sampler that can start anywhere in its stream, so that a resumed run sees the data that it would
have seen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from detectron2.data.samplers import TrainingSampler


class Sample(NamedTuple):
    """`index` into the data set; `position` in the endless shuffled stream that all processes share."""

    index: int
    position: int


class ResumableTrainingSampler(TrainingSampler):
    """Detectron2's endless shuffled stream, shared among the processes, with positions and a starting point.

    With `group_ids` (say, landscape or portrait) every `batch_size` consecutive samples of a process belong
    to one group, as Detectron2's aspect-ratio grouping makes them. Here the sampler groups instead of the
    loader: the loader would lose its half-filled groups at a restart.
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int | None = None,
        group_ids: Sequence[int] | None = None,
        batch_size: int = 1,
    ):
        """
        Args:
            size: number of images, at least 1.
            seed: of the shuffling. None: a random one, the same in all processes.
            group_ids: one for each image; None: no grouping.
            batch_size: images per batch and process; used for grouping only.
        """
        super().__init__(size, seed=seed)
        if group_ids is not None and len(group_ids) != size:
            raise ValueError(f"group_ids has {len(group_ids)} entries for {size} images")
        self._group_ids = group_ids
        self._batch_size = batch_size
        self._start = 0

    def set_start(self, num_samples_consumed: int) -> None:
        """Begin the next iteration after the samples that all processes together consumed before.

        Raises:
            ValueError: negative, or not divisible among the processes.
        """
        if num_samples_consumed < 0 or num_samples_consumed % self._world_size:
            raise ValueError(
                f"num_samples_consumed is {num_samples_consumed}: give a number >= 0 that is divisible by "
                f"the {self._world_size} processes"
            )
        self._start = num_samples_consumed // self._world_size

    def __iter__(self) -> Iterator[Sample]:
        positions = itertools.count(self._rank, self._world_size)
        indices = itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)
        samples = map(Sample, indices, positions)
        if self._group_ids is not None:
            samples = self._grouped(samples)
        return itertools.islice(samples, self._start, None)

    def _grouped(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        waiting: dict[int, list[Sample]] = {}
        for sample in samples:
            group = waiting.setdefault(self._group_ids[sample.index], [])
            group.append(sample)
            if len(group) == self._batch_size:
                yield from group
                group.clear()
