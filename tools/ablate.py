#!/usr/bin/env python
"""Train a named list of variants unattended and compare the label maps they learn.

    python tools/ablate.py tools/ablations/loss.yaml --jobs 2
    python tools/ablate.py tools/ablations/loss.yaml --report           # only the table, from what is there

Every run is one process of one thread: `train_net.py` on the label map alone (the verification heads do not train),
then `tools/evaluate_proposals.py` on the validation images. A run that was stopped continues, a finished one is not
trained again; `--evaluate-again` evaluates finished ones anew. A list has groups, one config and one table each:

    groups:
      - name: shapes_easy
        config_file: configs/shapes/shapes_easy.yaml
        options: [SOLVER.MAX_ITER, 500]                  # of every run of the group
        rows:
          - {name: all pairs, seeds: 3}
          - {name: no Mumford-Shah, options: [MODEL.VARIATIONAL_LOSS.MS_WEIGHT, 0.0]}

Prints the tables, writes them to `table.md` in the output folder, and prints as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
MEASURES = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "recall50": "recall .5",
    "recall75": "recall .75",
    "near": "near apart",
    "far": "far apart",
}
PERCENT = ("AP", "AP50", "AP75")  # the others are shares
# no evaluation of the untrained heads, no pictures; the seed is the run's
TRAINING = [
    "MODEL.DVIS_ROI_HEADS.START",
    "1.0",
    "DATASETS.TEST",
    "()",
    "DATASETS.CUSTOM.VAL_JSON",
    "",
    "VIS_PERIOD",
    "0",
]


@dataclass(frozen=True)
class Run:
    """One training. `options` are 'KEY VALUE' pairs, of the group and of the row."""

    group: str
    row: str
    seed: int
    config_file: str
    options: tuple[str, ...]
    folder: Path


def read_runs(path: Path, output: Path) -> list[Run]:
    """The runs of a list, row by row.

    Raises:
        ValueError: the list has a key it should not have, or lacks one, or two rows have one name.
    """
    content = yaml.safe_load(path.read_text())
    runs: dict[Path, Run] = {}
    for group in _checked(content, {"groups"}, set(), path)["groups"]:
        _checked(group, {"name", "config_file", "rows"}, {"options"}, path)
        for row in group["rows"]:
            _checked(row, {"name"}, {"options", "seeds"}, path)
            options = tuple(str(x) for x in [*group.get("options", []), *row.get("options", [])])
            for seed in range(1, row.get("seeds", 1) + 1):
                slug = re.sub(r"[^a-z0-9]+", "_", row["name"].lower()).strip("_")
                folder = output / group["name"] / slug / f"seed{seed}"
                if folder in runs:
                    raise ValueError(
                        f"{path}: two rows of {group['name']!r} would share the folder {slug!r}: rename one"
                    )
                runs[folder] = Run(group["name"], row["name"], seed, group["config_file"], options, folder)
    return list(runs.values())


def _checked(mapping: object, required: set[str], optional: set[str], path: Path) -> dict:
    if not isinstance(mapping, dict) or not required <= set(mapping) <= required | optional:
        raise ValueError(
            f"{path}: {mapping!r} must be a mapping with {sorted(required)} and at most {sorted(optional)}"
        )
    return mapping


def execute(run: Run, *, evaluate_again: bool) -> None:
    """Train and evaluate one run where that is not done yet; its output goes to `log.txt` and `evaluation.txt`.

    Raises:
        ValueError: the folder holds a run with other options.
        subprocess.CalledProcessError: a step failed.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    record = run.folder / "run.json"
    made_from = {"config_file": run.config_file, "options": list(run.options)}
    if record.exists() and json.loads(record.read_text()) != made_from:
        raise ValueError(f"{run.folder} was made with other options ({record}): remove it, or rename the row")
    record.write_text(json.dumps(made_from))
    common = ["--config-file", run.config_file]
    weights = run.folder / "model_final.pth"
    if not weights.exists():
        options = [*run.options, *TRAINING, "SEED", str(run.seed), "OUTPUT_DIR", str(run.folder)]
        _python("train_net.py", "--resume", *common, *options, log=run.folder / "training.txt")
    result = run.folder / "result.json"
    if evaluate_again or not result.exists():
        log = run.folder / "evaluation.txt"
        options = [*run.options, "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(run.folder)]
        _python("tools/evaluate_proposals.py", *common, *options, log=log)
        summary = json.loads(log.read_text().splitlines()[-1])["all"]
        partial = result.with_suffix(".partial")
        partial.write_text(json.dumps(summary))
        partial.replace(result)


def _python(program: str, *arguments: str, log: Path) -> None:
    """Run one of the checkout's programs with one thread; standard error goes to the log first."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("w") as f, log.with_suffix(".err").open("w") as errors:
        command = [sys.executable, str(ROOT / program), *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=f, stderr=errors, check=True)


def tabulate(runs: list[Run]) -> dict[str, list[dict]]:
    """For each group its rows: "name", "seeds" finished, and for every measure the mean and, from two seeds on, the
    sample standard deviation (else None). Rows without a finished run are left out."""
    groups: dict[str, dict[str, list[dict]]] = {}
    for run in runs:
        result = run.folder / "result.json"
        results = groups.setdefault(run.group, {}).setdefault(run.row, [])
        if result.exists():
            results.append(json.loads(result.read_text()))
    return {
        group: [{"name": row, "seeds": len(found), **_summary(found)} for row, found in rows.items() if found]
        for group, rows in groups.items()
    }


def _summary(results: list[dict]) -> dict[str, list]:
    summary = {}
    for key in MEASURES:
        values = [float("nan") if result[key] is None else result[key] for result in results]
        summary[key] = [float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None]
    return summary


def format_tables(groups: dict[str, list[dict]]) -> str:
    lines = []
    for group, rows in groups.items():
        lines += [f"### {group}", "", "| variant | seeds | " + " | ".join(MEASURES.values()) + " |"]
        lines.append("|---" * (len(MEASURES) + 2) + "|")
        for row in rows:
            cells = [_format(*row[key], digits=1 if key in PERCENT else 3) for key in MEASURES]
            lines.append(f"| {row['name']} | {row['seeds']} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _format(mean: float, spread: float | None, *, digits: int) -> str:
    return f"{mean:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, metavar="LIST", help="a YAML file such as tools/ablations/loss.yaml")
    parser.add_argument("--output", type=Path, default=Path("output/ablations"), metavar="DIR")
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="only these groups of the list")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--evaluate-again", action="store_true", help="evaluate finished runs anew")
    parser.add_argument("--report", action="store_true", help="train and evaluate nothing")
    return parser


def main() -> int:
    args = get_parser().parse_args()
    output = args.output.resolve()
    runs = read_runs(args.list, output)
    unknown = set(args.groups or ()) - {run.group for run in runs}
    if unknown:
        raise ValueError(f"{args.list} has no group {sorted(unknown)}")
    runs = [run for run in runs if not args.groups or run.group in args.groups]
    failed = [] if args.report else _execute_all(runs, args.jobs, evaluate_again=args.evaluate_again)
    groups = tabulate(runs)
    tables = format_tables(groups)
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.md").write_text(tables)
    print(tables)
    print(json.dumps(groups))
    return 1 if failed else 0


def _execute_all(runs: list[Run], jobs: int, *, evaluate_again: bool) -> list[Run]:
    """Every run, one failure does not stop the others; returns those that failed."""
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        in_order = sorted(runs, key=lambda run: run.seed)  # every row has a first figure early
        futures = {run: pool.submit(execute, run, evaluate_again=evaluate_again) for run in in_order}
        for run, future in futures.items():
            try:
                future.result()
                print(f"done: {run.folder}", file=sys.stderr)
            except (ValueError, subprocess.CalledProcessError) as error:
                failed.append(run)
                print(f"failed: {run.folder} (its *.txt and *.err say more): {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
