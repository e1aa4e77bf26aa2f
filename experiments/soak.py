#!/usr/bin/env python
"""Random cases for as long as one likes: what must hold for every input, held against thousands of them.

    python -m experiments.soak --minutes 10
    python -m experiments.soak --case losses 1234

Kinds of cases: "losses" against sums over pairs that are written out; "groups", proposals against flood filling;
"modes", the mean shift against the density itself; "files", COCO JSON and images with random damage through the check,
the mapper and a training step; "kills", a small training killed at random moments, whose resumed end must be that of an
undisturbed one, bit for bit. Cases run in processes of their own, with a limit. Prints kind and seed of every case that
fails, which --case runs again, and as its last line one JSON object; exits with 1 if one failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence

import torch

from .soak_cases import CASES, tiny_model

LIMIT = {"losses": 600, "groups": 600, "modes": 600, "files": 600, "kills": 3600}  # seconds that a process may take
AT_ONCE = {"losses": 40, "groups": 40, "modes": 40, "files": 20, "kills": 1}  # cases in one process


def run_cases(kind: str, seeds: Sequence[int]) -> list[tuple[int, str]]:
    """Run cases in a process of their own. Returns the seeds of those that failed, with what was seen; the cases after
    one that ends the process do not run."""
    with tempfile.TemporaryFile("w+") as log:
        if not (child := os.fork()):
            faulthandler.enable(log)
            for seed in seeds:
                print(f"\0{seed}", file=log, flush=True)
                try:
                    CASES[kind](seed)
                except BaseException:
                    log.write(traceback.format_exc())
            log.write("\0")
            log.flush()
            os._exit(0)
        end, status = time.monotonic() + LIMIT[kind], 0
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                end = float("inf")
            time.sleep(0.02)
        status = done[1]
        log.seek(0)
        _, *parts = log.read().split("\0")
    if status:
        parts[-1] += f"the process ended with status {status} (9: it took more than {LIMIT[kind]} seconds)"
    found = (part.partition("\n") for part in parts if part)
    return [(int(seed), text) for seed, _, text in found if text]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--kinds", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0, help="of the first case of every kind")
    parser.add_argument("--case", nargs=2, metavar=("KIND", "SEED"), help="run one case, in this process")
    args = parser.parse_args(argv)
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    if args.case:
        CASES[args.case[0]](int(args.case[1]))
        return
    tiny_model()
    end, counts = time.monotonic() + 60 * args.minutes, dict.fromkeys(args.kinds, 0)
    failed: list[tuple[str, int]] = []
    spent = dict.fromkeys(args.kinds, 0.0)
    while time.monotonic() < end:
        kind = min(spent, key=spent.__getitem__)  # the same time for each
        start, first = time.monotonic(), args.seed + counts[kind]
        for seed, text in run_cases(kind, range(first, first + AT_ONCE[kind])):
            failed.append((kind, seed))
            print(f"FAILED: --case {kind} {seed}\n{text}", flush=True)
        counts[kind] += AT_ONCE[kind]
        spent[kind] += time.monotonic() - start
    print(json.dumps({"minutes": args.minutes, "cases": counts, "failed": failed}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
