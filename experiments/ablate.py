#!/usr/bin/env python
"""Train a named list of variants unattended and compare the label maps they learn.

    python -m experiments.ablate experiments/ablations/loss.yaml --jobs 2
    python -m experiments.ablate experiments/ablations/loss.yaml --report      # only the table, from what is there

Every run is one process of one thread: it trains the label map alone (the verification heads do not train), then
measures label maps and proposals on the validation images as evaluate_proposals does. A run that was stopped continues,
a finished one is not trained again; `--evaluate-again` measures finished ones anew. A list has groups, one config and
one table each:

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
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from .jobs import Job, run_jobs
from .tables import format_mean, markdown_table, mean_and_spread

WORKER = "experiments.ablation_run"
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


@dataclass(frozen=True)
class Run:
    """One training. `options` are 'KEY VALUE' pairs, of the group and of the row."""

    group: str
    row: str
    seed: int
    config_file: str
    options: tuple[str, ...]
    folder: Path

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    def job(self) -> Job:
        arguments = ("--seed", str(self.seed), "--config-file", self.config_file, *self.options)
        return Job(WORKER, self.result, arguments)

    def claim_folder(self) -> None:
        """Write down what the folder's run is made from.

        Raises:
            ValueError: the folder holds a run with other options.
        """
        record = self.folder / "run.json"
        made_from = {"config_file": self.config_file, "options": list(self.options)}
        if record.exists() and json.loads(record.read_text()) != made_from:
            raise ValueError(f"{self.folder} was made with other options ({record}): remove it, or rename the row")
        self.folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(made_from))


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


def execute(runs: Sequence[Run], *, at_once: int, evaluate_again: bool = False) -> list[Run]:
    """Train and measure the runs where that is not done yet; one failure does not stop the others.

    Returns:
        those that failed.
    """
    ready, failed = [], []
    for run in sorted(runs, key=lambda run: run.seed):  # every row has a first figure early
        try:
            run.claim_folder()
        except ValueError as error:
            print(f"failed: {error}", file=sys.stderr)
            failed.append(run)
            continue
        if evaluate_again:
            run.result.unlink(missing_ok=True)
        ready.append(run)
    results = run_jobs([run.job() for run in ready], at_once=at_once, keep_going=True)
    return failed + [run for run, result in zip(ready, results, strict=True) if result is None]


def summarize(runs: Sequence[Run]) -> dict[str, list[dict]]:
    """For each group its rows: "name", "seeds" finished, and for every measure the mean and, from two seeds on, the
    sample standard deviation (else None). Rows without a finished run are left out."""
    groups: dict[str, dict[str, list[dict]]] = {}
    for run in runs:
        results = groups.setdefault(run.group, {}).setdefault(run.row, [])
        if run.result.exists():
            results.append(json.loads(run.result.read_text()))
    return {
        group: [{"name": row, "seeds": len(found), **_means(found)} for row, found in rows.items() if found]
        for group, rows in groups.items()
    }


def _means(results: list[dict]) -> dict[str, tuple[float, float | None]]:
    nan = float("nan")
    return {key: mean_and_spread([nan if r[key] is None else r[key] for r in results]) for key in MEASURES}


def format_tables(groups: dict[str, list[dict]]) -> str:
    headers = ["variant", "seeds", *MEASURES.values()]
    tables = []
    for group, rows in groups.items():
        cells = [
            [row["name"], row["seeds"]]
            + [format_mean(*row[key], ".1f" if key in PERCENT else ".3f") for key in MEASURES]
            for row in rows
        ]
        tables.append(f"### {group}\n\n{markdown_table(cells, headers)}\n")
    return "\n".join(tables)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", type=Path, metavar="LIST", help="a YAML file such as experiments/ablations/loss.yaml")
    parser.add_argument("--output", type=Path, default=Path("output/ablations"), metavar="DIR")
    parser.add_argument("--groups", nargs="+", metavar="NAME", help="only these groups of the list")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--evaluate-again", action="store_true", help="measure finished runs anew")
    parser.add_argument("--report", action="store_true", help="train and measure nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = get_parser().parse_args(argv)
    runs = read_runs(args.list, args.output.resolve())
    unknown = set(args.groups or ()) - {run.group for run in runs}
    if unknown:
        raise SystemExit(f"{args.list} has no group {sorted(unknown)}")
    runs = [run for run in runs if not args.groups or run.group in args.groups]
    failed = [] if args.report else execute(runs, at_once=args.jobs, evaluate_again=args.evaluate_again)
    groups = summarize(runs)
    tables = format_tables(groups)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "table.md").write_text(tables)
    print(tables)
    print(json.dumps(groups))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
