#!/usr/bin/env python
"""Train DVIS and Detectron2's Mask R-CNN for the same time on the same data, and compare them.

    python -m experiments.compare --config-file configs/shapes/shapes.yaml --minutes 10 --find-lr    # once a data set
    python -m experiments.compare --config-file configs/shapes/shapes.yaml --minutes 10 --seeds 1 2 3
    python -m experiments.compare --config-file configs/shapes/shapes.yaml --minutes 10 --report     # the table only

Each model has one thread, and both run at once. A comparison that was stopped continues where it was: run the command
again. Writes table.md, comparison.json and sheet.png; the last line printed is that JSON object. README.md says
how it is made fair.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from .comparison.report import format_table, summarize
from .jobs import Job, run_jobs

RIVALS = Path(__file__).parent / "configs" / "comparison"
WORKER = "experiments.comparison.worker"
AT_ONCE = 2
TITLES = {"dvis": "DVIS", "mask_rcnn": "Mask R-CNN"}
RATES = (0.0003, 0.001, 0.003)
MEASURE_SHARE = 0.15  # of the training time, to learn how long an iteration takes
TRAINING = ("VIS_PERIOD", "0", "TEST.EVAL_PERIOD", "-1")  # nothing but training steps


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of DVIS; it names the data")
    parser.add_argument(
        "--mask-rcnn-config",
        metavar="FILE",
        help="default: experiments/configs/comparison/mask_rcnn_<name of --config-file>",
    )
    parser.add_argument("--minutes", type=float, default=10, help="training time of each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--output", metavar="DIR", help="default: output/compare/<name of --config-file>")
    parser.add_argument(
        "--max-iter",
        type=int,
        nargs=2,
        metavar=("DVIS", "MASK_RCNN"),
        help="iterations of the two; default: what a measurement says that --minutes hold",
    )
    parser.add_argument(
        "--find-lr",
        type=float,
        nargs="*",
        metavar="RATE",
        help=f"only find Mask R-CNN's best learning rate, by training with each of these (default {RATES})",
    )
    parser.add_argument(
        "--lr-file", metavar="FILE", help="what --find-lr found; default: learning_rate.json in --output"
    )
    parser.add_argument("--report", action="store_true", help="only write the table of the runs that are finished")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for both configs")
    return parser


def worker_job(
    kind: str, config_file: str, result: Path, *, arguments: Sequence[str] = (), opts: Sequence[str] = ()
) -> Job:
    return Job(WORKER, result, (kind, "--config-file", config_file, *arguments, "--opts", *opts))


def train_job(config_file: str, folder: Path, max_iter: int, seed: int, opts: Sequence[str]) -> Job:
    period = max(1, max_iter // 20)  # a stopped run loses a twentieth at most
    own = ["OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", str(max_iter), "SEED", str(seed)]
    own += ["SOLVER.CHECKPOINT_PERIOD", str(period)]
    return worker_job("train", config_file, folder / "result.json", opts=(*opts, *TRAINING, *own))


def plan_iterations(args: argparse.Namespace, configs: dict[str, str], folder: Path, rate: float | None = None) -> dict:
    """The plan stored in a folder; made, and stored, where there is none.

    Args:
        rate: Mask R-CNN's learning rate; None: its config's.

    Raises:
        SystemExit: the stored plan is one of other configs or options.
    """
    path = folder / "plan.json"
    asked = {"configs": configs, "opts": args.opts, "minutes": args.minutes, "mask_rcnn_learning_rate": rate}
    if path.exists():
        plan = json.loads(path.read_text())
        different = [key for key, value in asked.items() if plan[key] != value]
        if args.max_iter and list(plan["max_iter"].values()) != args.max_iter:
            different.append("max_iter")
        if different:
            raise SystemExit(f"{path} was made with other {', '.join(different)}; give another --output, or remove it")
        return plan
    plan = dict(asked)
    if args.max_iter:
        plan["max_iter"] = dict(zip(configs, args.max_iter, strict=True))
    else:
        seconds = 60 * args.minutes
        jobs = []
        for model, config_file in configs.items():
            own = folder / f"measure_{model}"
            limit = ("--seconds", str(MEASURE_SHARE * seconds))
            opts = (*args.opts, *TRAINING, "OUTPUT_DIR", str(own))
            jobs.append(worker_job("measure", config_file, own / "result.json", arguments=limit, opts=opts))
        measured = dict(zip(configs, run_jobs(jobs, at_once=AT_ONCE), strict=True))
        plan["measured"] = measured
        plan["max_iter"] = {m: max(1, round(seconds / r["seconds_per_iteration"])) for m, r in measured.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan, indent=2))
    return plan


def find_learning_rate(args: argparse.Namespace, configs: dict[str, str], folder: Path, path: Path) -> dict:
    """Train Mask R-CNN with each rate, two at a time, and store the one with the highest mask AP."""
    rates = args.find_lr or RATES
    max_iter = plan_iterations(args, configs, folder)["max_iter"]["mask_rcnn"]
    jobs = [
        train_job(configs["mask_rcnn"], folder / f"lr_{rate:g}", max_iter, 0, [*args.opts, "SOLVER.BASE_LR", str(rate)])
        for rate in rates
    ]
    results = run_jobs(jobs, at_once=AT_ONCE)
    scores = {f"{rate:g}": result["segm"]["AP"] for rate, result in zip(rates, results, strict=True)}
    # None: nothing was found, or what was found is not finite
    best = max(scores, key=lambda rate: -1 if scores[rate] is None else scores[rate])
    found = {"best": float(best), "AP": scores, "iterations": max_iter, "minutes": args.minutes}
    path.write_text(json.dumps(found, indent=2))
    return found


def compare(args: argparse.Namespace, configs: dict[str, str], folder: Path, rate: float | None) -> None:
    """All runs of a comparison, what they cost at inference, and the sheet; what is done is not done again."""
    plan = plan_iterations(args, configs, folder, rate)
    rates = {"dvis": [], "mask_rcnn": [] if rate is None else ["SOLVER.BASE_LR", str(rate)]}
    for seed in args.seeds:
        pair = [
            train_job(config, folder / f"{m}_seed{seed}", plan["max_iter"][m], seed, [*args.opts, *rates[m]])
            for m, config in configs.items()
        ]
        run_jobs(pair, at_once=AT_ONCE)
    first = {model: str(folder / f"{model}_seed{args.seeds[0]}" / "config.yaml") for model in configs}
    costs = [worker_job("costs", config, folder / f"costs_{model}.json") for model, config in first.items()]
    run_jobs(costs, at_once=1)  # alone, so that neither slows the other
    arguments = ("--other", first["mask_rcnn"], "--titles", *TITLES.values(), "--sheet", str(folder / "sheet.png"))
    pictures = worker_job("pictures", first["dvis"], folder / "pictures.json", arguments=arguments)
    run_jobs([pictures], at_once=1)


def report(folder: Path) -> dict:
    """Write table.md and comparison.json from the finished runs of a folder, and print them."""
    summary = summarize(folder)
    table = format_table(summary, TITLES)
    (folder / "table.md").write_text(table)
    (folder / "comparison.json").write_text(json.dumps(summary, indent=2))
    print(table)
    print(json.dumps(summary))
    return summary


def check_configs(args: argparse.Namespace, configs: dict[str, str]) -> None:
    from .comparison.conditions import check_same_conditions  # loads torch
    from .unseen import setup_unseen_cfg

    def load(config_file: str):
        return setup_unseen_cfg(argparse.Namespace(config_file=config_file, opts=args.opts))

    try:
        check_same_conditions({TITLES[model]: load(config_file) for model, config_file in configs.items()})
    except ValueError as error:
        raise SystemExit(str(error)) from None


def main(argv: Sequence[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    name = Path(args.config_file).stem
    rival = args.mask_rcnn_config or os.path.relpath(RIVALS / f"mask_rcnn_{name}.yaml")
    if not Path(rival).exists():
        raise SystemExit(f"{rival} does not exist: write it (experiments/README.md), or give --mask-rcnn-config")
    configs = {"dvis": args.config_file, "mask_rcnn": rival}
    output = Path(args.output or f"output/compare/{name}")
    folder = output / f"{args.minutes:g}min"
    if args.report:
        report(folder)
        return

    check_configs(args, configs)
    lr_file = Path(args.lr_file) if args.lr_file else output / "learning_rate.json"
    if args.find_lr is not None:
        found = find_learning_rate(args, configs, output / "find_lr" / f"{args.minutes:g}min", lr_file)
        print(f"Mask R-CNN's mask AP by learning rate: {found['AP']}; {found['best']:g} is stored in {lr_file}")
        print(json.dumps(found))
        return
    if args.lr_file and not lr_file.exists():
        raise SystemExit(f"{lr_file} does not exist: run with --find-lr first, or leave --lr-file out")
    rate = json.loads(lr_file.read_text())["best"] if lr_file.exists() else None
    if rate is None:
        print("Mask R-CNN has its config's learning rate; --find-lr finds a better one")
    compare(args, configs, folder, rate)
    report(folder)


if __name__ == "__main__":
    main()
