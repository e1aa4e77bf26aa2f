#!/usr/bin/env python
"""Measure the parts of the method: ``python -m experiments.benchmark NAME ...``.

Prints a table, and as its last line one JSON object. Every benchmark is a module of ``experiments.benchmarks`` with
``add_arguments(parser)`` and ``run(args) -> dict``; only the one that is asked for is imported.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence

BENCHMARKS = ("loss", "mean-shift", "inference", "predict", "export", "explore", "train")


def main(argv: Sequence[str] | None = None) -> None:
    prog = "python -m experiments.benchmark"
    parser = argparse.ArgumentParser(prog=prog, description="Prints a table, and as its last line one JSON object.")
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="of the benchmark; try: loss --help")
    selection = parser.parse_args(argv)
    module = importlib.import_module(f"experiments.benchmarks.{selection.benchmark.replace('-', '_')}")
    options = argparse.ArgumentParser(
        prog=f"{prog} {selection.benchmark}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(options)
    print(json.dumps(module.run(options.parse_args(selection.options))))


if __name__ == "__main__":
    main()
