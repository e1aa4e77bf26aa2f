"""Jobs in processes of their own, one thread each, and never a job twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
POLL = 0.05  # seconds
LOG_LINES = 15  # of a failed job, shown


@dataclass(frozen=True)
class Job:
    """``python -m MODULE --result RESULT ARGUMENTS``, where the program calls :func:`write_result` last.

    Attributes:
        result: the JSON file. Where it exists the job is done. What the program prints is appended to the file of
            the same name that ends in .log.
    """

    module: str
    result: Path
    arguments: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        return self.result.with_suffix(".log")

    def start(self) -> subprocess.Popen:
        self.result.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", self.module, "--result", str(self.result), *self.arguments]
        with self.log.open("a", encoding="utf-8") as log:
            environment = os.environ | ONE_THREAD | {"PYTHONPATH": path}
            return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def run_jobs(jobs: Sequence[Job], *, at_once: int, keep_going: bool = False) -> list[dict | None]:
    """Run those jobs that are not done, in order, at most `at_once` at a time, and wait for all.

    Whatever ends this process before they are done, SIGTERM included, ends the jobs that run. A program that can
    continue where it was stopped does so when the jobs are run again.

    Args:
        keep_going: a failure is reported on standard error, and does not stop the others.

    Returns:
        the result of every job; None for a failed one.

    Raises:
        SystemExit: a job failed, without `keep_going`; the message has the end of its log. The others are ended.
    """
    waiting = deque(job for job in jobs if not job.result.exists())
    running: dict[Job, subprocess.Popen] = {}
    with _ended_with_this_process(running):
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                print(f"running: {job.result.parent} (messages: {job.log})", file=sys.stderr)
                running[job] = job.start()
            time.sleep(POLL)
            for job, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[job]
                if code or not job.result.exists():
                    tail = "\n".join(job.log.read_text(encoding="utf-8").splitlines()[-LOG_LINES:])
                    message = f"{job.module} failed with exit status {code}; the end of {job.log}:\n{tail}"
                    if not keep_going:
                        raise SystemExit(message)
                    print(message, file=sys.stderr)
    return [json.loads(job.result.read_text(encoding="utf-8")) if job.result.exists() else None for job in jobs]


def write_result(path: str | Path, result: dict) -> None:
    """Write a job's JSON, whole or not at all."""
    partial = Path(f"{path}.partial")
    partial.write_text(json.dumps(result, indent=2), encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def _ended_with_this_process(running: dict[Job, subprocess.Popen]) -> Iterator[None]:
    previous = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, previous)
