import multiprocessing
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from dvis_d2 import processes

ROOT = Path(__file__).parents[1]


def test_limit_is_stated_and_can_be_set(monkeypatch):
    monkeypatch.delenv("DVIS_TIMEOUT", raising=False)
    assert processes.time_limit() == timedelta(minutes=10)
    monkeypatch.setenv("DVIS_TIMEOUT", "90")
    assert processes.time_limit() == timedelta(seconds=90)


def test_one_process_waits_for_nobody():
    processes.wait_for_all("nothing")
    assert processes.guarded(lambda a, b: a + b, 1, 2) == 3


@pytest.mark.parametrize(
    "text, yes",
    [
        ("[unbound_buffer.cc:78] Timed out waiting 15000ms for recv operation to complete", True),
        ("Timeout waiting for key: default_pg/0//cpu//0/0", True),
        ("Connection closed by peer [127.0.0.1]:1234", False),
    ],
)
def test_which_errors_are_a_limit_that_ran_out(text, yes):
    assert processes.is_timeout(RuntimeError(text)) == yes


class StoppedReader(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGSTOP)


def test_a_watched_loader_gives_all_batches():
    loader = DataLoader([1, 2, 3], batch_size=2)
    assert [batch.tolist() for batch in processes.Watched(loader)] == [[1, 2], [3]] and len(
        processes.Watched(loader)
    ) == 2


def test_a_stopped_reader_of_images_does_not_hang_a_training(monkeypatch):
    monkeypatch.setenv("DVIS_TIMEOUT", "1")
    loader = DataLoader(StoppedReader(), num_workers=1)
    with pytest.raises(TimeoutError, match="gave none within 0:00:01\n.*--resume"), processes.loading():
        next(iter(loader))
    with pytest.raises(TimeoutError, match="gave none within 0:00:01"):
        list(processes.Watched(loader))
    for child in multiprocessing.active_children():
        child.join(60)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_process_ends_all_and_is_named(tmp_path, rank):
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "tests/stopped_worker.py", f"file://{tmp_path}/rendezvous", str(rank)]
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"DVIS_TIMEOUT": "10"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert f"Error: rank {rank} of 2 did not answer" in done.stderr and "To do: " in done.stderr
    assert "Traceback" not in done.stderr
