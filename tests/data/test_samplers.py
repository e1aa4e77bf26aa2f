import itertools

import pytest
from detectron2.data.samplers import TrainingSampler
from hypothesis import given, settings
from hypothesis import strategies as st

from dvis_d2.data import ResumableTrainingSampler
from dvis_d2.data.samplers import Sample


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
    sampler.set_start(start)
    assert [s.index for s in take(sampler, 40)] == expected[start : start + 40]
    assert [s.position for s in take(sampler, 40)] == list(range(start, start + 40))


def test_processes_share_one_stream(as_rank):
    expected = take(TrainingSampler(7, seed=1), 40)
    for rank in range(2):
        sampler = as_rank(rank, 2, 7, seed=1)
        sampler.set_start(6)
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
    sampler.set_start(start_batch * batch_size)
    assert take(sampler, 4 * batch_size) == samples[start_batch * batch_size :][: 4 * batch_size]


@pytest.mark.parametrize("consumed", [-2, 3])
def test_start_that_does_not_fit(as_rank, consumed):
    with pytest.raises(ValueError, match="num_samples_consumed"):
        as_rank(0, 2, 7, seed=1).set_start(consumed)


def test_group_ids_of_another_length():
    with pytest.raises(ValueError, match="group_ids has 2 entries for 3 images"):
        ResumableTrainingSampler(3, seed=0, group_ids=[0, 1])
