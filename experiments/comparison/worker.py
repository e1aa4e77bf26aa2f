"""One job of compare.py: `python -m experiments.comparison.worker --result FILE JOB --config-file ...`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cv2
from detectron2.engine import default_setup

from ..jobs import write_result
from ..unseen import setup_unseen_cfg
from .costs import load_model, measure_costs
from .pictures import draw_sheet
from .training import measure_seconds_per_iteration, train_and_evaluate


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=("measure", "train", "costs", "pictures"))
    parser.add_argument("--config-file", required=True, metavar="FILE", help="costs, pictures: that of a finished run")
    parser.add_argument("--result", required=True, metavar="FILE")
    parser.add_argument("--seconds", type=float, help="measure: how long")
    parser.add_argument("--other", metavar="FILE", help="pictures: config of the other model's finished run")
    parser.add_argument("--titles", nargs=2, help="pictures: names of the two models")
    parser.add_argument("--sheet", metavar="FILE", help="pictures: PNG to write")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def run(args: argparse.Namespace) -> dict:
    cfg = setup_unseen_cfg(args)
    if args.job in ("measure", "train"):
        default_setup(cfg, args)
    if args.job == "measure":
        return measure_seconds_per_iteration(cfg, args.seconds)
    if args.job == "train":
        return train_and_evaluate(cfg)
    if args.job == "costs":
        return measure_costs(cfg, load_model(cfg))
    other = setup_unseen_cfg(argparse.Namespace(config_file=args.other, opts=args.opts))
    models = dict(zip(args.titles, (load_model(cfg), load_model(other)), strict=True))
    sheet = draw_sheet(cfg, models, num_images=12, score_threshold=0.5)
    cv2.imwrite(args.sheet, sheet[:, :, ::-1])
    return {"sheet": args.sheet}


def main(argv: Sequence[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    cv2.setNumThreads(1)
    write_result(args.result, run(args))


if __name__ == "__main__":
    main()
