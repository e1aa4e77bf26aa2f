"""A program for experiments.jobs that takes no time: its result says what it was given.

What its `--config-file` says, if that is a JSON, is in the result too, and what that has in "by" for one of the
arguments. The argument "fail" makes it fail, "forget" leaves the result out, "wait" makes it take 3 s, "sleep" far
too long.
"""

import argparse
import json
import os
import time
from pathlib import Path

from experiments.jobs import write_result

MEASURES = ("AP", "AP50", "AP75", "recall50", "recall75", "near", "far")  # of ablate, which would load slowly

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--result", type=Path)
    parser.add_argument("--config-file")
    args, rest = parser.parse_known_args()
    started = time.monotonic()
    args.result.with_suffix(".pid").write_text(str(os.getpid()))
    if "fail" in rest:
        raise ValueError("no such data")
    if "sleep" in rest or "wait" in rest:
        time.sleep(100 if "sleep" in rest else 3)
    given = {}
    if args.config_file and args.config_file.endswith(".json"):
        given = json.loads(Path(args.config_file).read_text())
        for argument in rest:
            given |= given.get("by", {}).get(argument, {})
    own = {"arguments": rest, "threads": os.environ["OMP_NUM_THREADS"], "times": [started, time.monotonic()]}
    if "forget" not in rest:
        write_result(args.result, dict.fromkeys(MEASURES, 1.0) | own | given)
