#!/usr/bin/env python
"""Measure the parts of the method: ``tools/benchmark.py {loss,mean-shift,inference,train} [options]``.

Prints a table, and as its last line one JSON object. Every subcommand is a module of ``tools/benchmarks``
with ``add_arguments(parser)`` and ``run(args) -> dict``; only the module that is asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

SUBCOMMANDS = {
    "loss": "benchmarks.loss",
    "mean-shift": "benchmarks.mean_shift",
    "inference": "benchmarks.inference",
    "train": "benchmarks.train",
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="tools/benchmark.py", description="Prints a table, and as its last line one JSON object."
    )
    parser.add_argument("subcommand", choices=SUBCOMMANDS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the subcommand; try: loss --help")
    selection = parser.parse_args(argv)

    # The package of the checkout and its benchmarks, installed or not.
    tools = Path(__file__).resolve().parent
    sys.path[:0] = [str(tools.parent), str(tools)]
    benchmark = importlib.import_module(SUBCOMMANDS[selection.subcommand])
    options = argparse.ArgumentParser(
        prog=f"tools/benchmark.py {selection.subcommand}",
        description=benchmark.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    benchmark.add_arguments(options)
    print(json.dumps(benchmark.run(options.parse_args(selection.options))))


if __name__ == "__main__":
    main(sys.argv[1:])
