import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import TrainingSampler
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.config import add_dvis_config
from dvis_d2.data import DatasetError, build_train_loader, loaded_dicts, set_start_iter
from dvis_d2.data.build import ResumableTrainingSampler, Sample, temporary_seed
from dvis_d2.data.builtin import ShapesSplit, register_shapes

NAME = "shapes_for_the_loader"


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    register_shapes(tmp_path_factory.mktemp("datasets"), {NAME: ShapesSplit("shapes_easy", 7, 1)})
    yield
    DatasetCatalog.pop(NAME)
    MetadataCatalog.pop(NAME)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.DATASETS.TRAIN = (NAME,)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    cfg.SEED = 4
    cfg.SOLVER.IMS_PER_BATCH = 3
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN = tuple(range(60, 130))
    cfg.INPUT.CROP.ENABLED = True
    return cfg


@pytest.fixture
def dicts(request):
    """Register a list of dataset dicts; gives a function that returns the name."""
    names = []

    def register(entries):
        names.append(f"dicts_{len(names)}_{request.node.name}")
        DatasetCatalog.register(names[-1], lambda: entries)
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name, None)


def batches(loader, count):
    """The first batches as comparable values: file, augmented pixels, ids."""
    return [
        [(d["file_name"], d["image"].numpy().tobytes(), d["instance_ids"].numpy().tobytes()) for d in batch]
        for batch in itertools.islice(iter(loader), count)
    ]


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_resumption_do_not_change_the_stream(cfg, workers, grouping):
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    expected = batches(build_train_loader(cfg), 8)
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_train_loader(cfg)
    assert batches(loader, 8) == expected
    set_start_iter(loader, 5)
    assert batches(loader, 3) == expected[5:]
    assert [len(batch) for batch in expected] == [3] * 8


def test_one_image_is_augmented_anew_each_time(cfg):
    seen = {}
    for name, pixels, _ in itertools.chain.from_iterable(batches(build_train_loader(cfg), 12)):
        seen.setdefault(name, []).append(pixels)
    assert len(seen) == 7
    assert all(len(set(versions)) == len(versions) > 1 for versions in seen.values())


def test_seed_decides(cfg):
    first = batches(build_train_loader(cfg), 2)
    cfg.SEED = 5
    assert batches(build_train_loader(cfg), 2) != first


def test_negative_seed_is_random(cfg):
    cfg.SEED = -1
    assert len(batches(build_train_loader(cfg), 1)[0]) == 3


def test_global_generators_are_left_alone(cfg):
    loader = build_train_loader(cfg)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    batches(loader, 3)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_temporary_seed_restores_after_an_error():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    draws = []
    for entropy in [(1, 2), (1, 2), (2, 1)]:
        with pytest.raises(KeyError), temporary_seed(*entropy):
            draws.append((random.random(), np.random.rand(), torch.rand(()).item()))
            raise KeyError
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_grouping_keeps_orientations_apart(cfg, dicts):
    def entry(index, height, width):
        thing = {"category_id": 0, "bbox": [0, 0, 5, 5], "bbox_mode": 1}
        return {"file_name": str(index), "height": height, "width": width, "annotations": [thing]}

    cfg.DATASETS.TRAIN = (dicts([entry(i, *((20, 30) if i % 3 else (30, 20))) for i in range(9)]),)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = True
    loader = build_train_loader(cfg, mapper=lambda d: d["height"])
    assert all(len(set(batch)) == 1 for batch in itertools.islice(loader, 20))


def test_empty_images_are_left_out_or_kept(cfg, dicts):
    thing = {"category_id": 0, "bbox": [0, 0, 5, 5], "bbox_mode": 1}
    entries = [
        {"file_name": "thing", "height": 9, "width": 9, "annotations": [thing]},
        {"file_name": "nothing", "height": 9, "width": 9, "annotations": []},
        {"file_name": "crowd", "height": 9, "width": 9, "annotations": [{**thing, "iscrowd": 1}]},
    ]
    cfg.DATASETS.TRAIN = (dicts(entries),)
    for keep, expected in [(True, {"thing"}), (False, {"thing", "nothing", "crowd"})]:
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = keep
        loader = build_train_loader(cfg, mapper=lambda d: d["file_name"])
        assert set(itertools.chain.from_iterable(itertools.islice(loader, 4))) == expected


@pytest.mark.parametrize("filter_empty", [True, False])
@pytest.mark.parametrize("annotations", [[], [{"category_id": 0, "iscrowd": 1}]])
def test_nothing_to_learn_from(cfg, dicts, annotations, filter_empty):
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
    cfg.DATASETS.TRAIN = (dicts([{"file_name": "a", "height": 9, "width": 9, "annotations": annotations}]),)
    with pytest.raises(DatasetError, match="no image of dicts_0.* has an object"):
        build_train_loader(cfg)


def test_no_data_set_named(cfg):
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(DatasetError, match=r"DATASETS\.TRAIN is empty"):
        build_train_loader(cfg)


def test_samplers_that_cannot_resume_are_refused(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    with pytest.raises(ValueError, match=r"DATALOADER\.SAMPLER_TRAIN is 'RepeatFactorTrainingSampler'"):
        build_train_loader(cfg)


def test_batch_that_cannot_be_divided(cfg, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 3"):
        build_train_loader(cfg)


def take(iterable, count):
    return list(itertools.islice(iter(iterable), count))


@pytest.fixture
def as_rank(monkeypatch):
    def make(rank, world_size, *args, **options):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
        monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: world_size)
        return ResumableTrainingSampler(*args, **options)

    return make


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 20), seed=st.integers(0, 1000), start=st.integers(0, 60))
def test_stream_is_detectron2s_and_starts_anywhere(size, seed, start):
    sampler = ResumableTrainingSampler(size, seed=seed)
    expected = take(TrainingSampler(size, seed=seed), 100)
    assert take(sampler, 100) == [Sample(index, position) for position, index in enumerate(expected)]
    sampler.start = start
    assert [s.index for s in take(sampler, 40)] == expected[start : start + 40]
    assert [s.position for s in take(sampler, 40)] == list(range(start, start + 40))


def test_processes_share_one_stream(as_rank):
    expected = take(TrainingSampler(7, seed=1), 40)
    for rank in range(2):
        sampler = as_rank(rank, 2, 7, seed=1)
        sampler.start = 3
        assert [s.index for s in take(sampler, 10)] == expected[6 + rank :: 2][:10]
        assert [s.position for s in take(sampler, 3)] == [6 + rank, 8 + rank, 10 + rank]


@settings(deadline=None, max_examples=30)
@given(
    groups=st.lists(st.integers(0, 1), min_size=1, max_size=15),
    batch_size=st.integers(1, 4),
    start_batch=st.integers(0, 8),
)
def test_groups(groups, batch_size, start_batch):
    sampler = ResumableTrainingSampler(len(groups), seed=3, group_ids=groups, batch_size=batch_size)
    samples = take(sampler, 12 * batch_size)
    for begin in range(0, len(samples), batch_size):
        assert len({groups[s.index] for s in samples[begin : begin + batch_size]}) == 1
    for group in set(groups):  # within a group the order of the stream is kept
        positions = [s.position for s in samples if groups[s.index] == group]
        assert positions == sorted(set(positions))
    sampler.start = start_batch * batch_size
    assert take(sampler, 4 * batch_size) == samples[start_batch * batch_size :][: 4 * batch_size]


def test_dicts_of_a_loader(tiny_cfg):
    assert {d["image_id"] for d in loaded_dicts(build_train_loader(tiny_cfg))} == set(range(1, 7))
    assert loaded_dicts(itertools.repeat([])) == []
