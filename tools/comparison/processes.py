"""Jobs in processes of their own, one thread each, and never a job twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """`kind` and `arguments` of `comparison.worker`; `result` is the JSON file that it writes when it is done, and its
    messages go to a file beside that."""

    kind: str
    config_file: str
    result: Path
    arguments: tuple[str, ...] = ()
    opts: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        return self.result.with_suffix(".log")

    def start(self) -> subprocess.Popen:
        self.result.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(TOOLS), str(TOOLS.parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | {"PYTHONPATH": path.rstrip(os.pathsep)}
        command = [sys.executable, "-m", "comparison.worker", self.kind, "--config-file", self.config_file]
        command += ["--result", str(self.result), *self.arguments, "--opts", *self.opts]
        with open(self.log, "a", encoding="utf-8") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def run_together(jobs: Sequence[Job]) -> list[dict]:
    """Run at once those of some jobs that are not done, wait for all, and return the results of all.

    Raises:
        SystemExit: a job failed; the message names its log. The others are stopped, and so they are when this process
            is told to stop. All continue when they are run again.
    """
    running = {job: job.start() for job in jobs if not job.result.exists()}
    for job in running:
        print(f"{job.kind}: {job.result.parent} (messages: {job.log})", flush=True)
    try:
        while running:
            for job, process in list(running.items()):
                try:
                    code = process.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    continue
                del running[job]
                if code:
                    tail = "\n".join(job.log.read_text(encoding="utf-8").splitlines()[-15:])
                    raise SystemExit(f"{job.kind} failed with exit status {code}; the end of {job.log}:\n{tail}")
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
    return [json.loads(job.result.read_text(encoding="utf-8")) for job in jobs]
