"""Waits of one process of a distributed program for the others: each has a limit, and names who did not come."""

import contextlib
import functools
import multiprocessing
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

ALONE = timedelta(hours=3)  # for what one process does while the others wait


def time_limit() -> timedelta:
    """How long a process waits for the others in a step: ``DVIS_TIMEOUT`` seconds of the environment, or 10 minutes."""
    return timedelta(seconds=float(os.environ.get("DVIS_TIMEOUT", 600)))


def wait_for_all(what: str, limit: timedelta | None = None) -> None:
    """Go on when every process has come to this point. SystemExit, after `limit`, with the ranks that have not."""
    if comm.get_world_size() == 1:
        return
    limit = limit or time_limit()
    try:
        # a group of its own, over TCP: after a timeout in a collective the others are of no use
        dist.monitored_barrier(_barrier_group(), timeout=limit, wait_all_ranks=True)
    except RuntimeError as error:
        found = re.search(r"Ranks? ([\d, ]+) failed to pass", str(error))
        late = found[1].strip(" ,") if found else "0"
        if not found and not is_timeout(error):
            raise
        what = f"rank {late} of {comm.get_world_size()} did not answer within {limit} (waited for: {what})"
        cure = "look at that process and its machine (stopped? a hung disk?), end it, and start again with --resume"
        print(f"Error: {what}\nTo do: {cure}; DVIS_TIMEOUT sets the seconds", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def guarded(main: Callable, *args: Any) -> Any:
    """``main(*args)`` in one of several processes. When a step's wait runs into its limit, all end with two lines
    that name the process which stands still."""
    if comm.get_world_size() == 1:
        return main(*args)
    _barrier_group()
    try:
        return main(*args)
    except RuntimeError as error:
        if not is_timeout(error):
            raise
        # all that are alive run into the same limit; who does not come to this point is the one
        wait_for_all(f"the end of a step, {time_limit()}", timedelta(seconds=min(30, time_limit().total_seconds())))
        raise


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Where a loader's next images are waited for. When :func:`time_limit` runs out, its processes are killed, for a
    stopped one would hold this one for ever, even beyond a loader's own limit; TimeoutError, two lines."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        for child in multiprocessing.active_children():
            child.kill()

    timer = threading.Timer(time_limit().total_seconds(), expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if not expired.is_set():
            raise
        what = f"the processes that read images gave none within {time_limit()}"
        cure = "look at the disk and the machine (stopped? hung?), and start again with --resume"
        raise TimeoutError(f"{what}\n{cure}; DVIS_TIMEOUT sets the seconds") from error
    finally:
        timer.cancel()


class Watched:
    """A loader whose images are all waited for as :func:`loading` does."""

    def __init__(self, loader: Any):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            with loading():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def is_timeout(error: BaseException) -> bool:
    return re.search(r"time[d ]*out", str(error), re.IGNORECASE) is not None


@functools.cache
def _barrier_group() -> Any:
    return dist.new_group(backend="gloo", timeout=time_limit())
