"""One job of ablate.py: train the label map of one variant, or continue, and measure what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.engine import default_setup

from dvis_d2.engine import Trainer, setup_cfg

from .evaluate_proposals import measure
from .jobs import write_result
from .program import config_parser
from .tables import without_nan

# the heads never join; no evaluation of them, no pictures
LABEL_MAP_ALONE = [
    *("MODEL.DVIS_ROI_HEADS.START", "1.0"),
    *("DATASETS.TEST", "()"),
    *("DATASETS.CUSTOM.VAL_JSON", ""),
    *("TEST.TUNE_THRESHOLDS", "False"),
    *("VIS_PERIOD", "0"),
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--result", type=Path, required=True, metavar="FILE", help="its folder is that of the run")
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args(argv)
    folder = args.result.parent
    weights = folder / "model_final.pth"
    options = args.opts
    if not weights.exists():
        args.opts = [*options, *LABEL_MAP_ALONE, "SEED", str(args.seed), "OUTPUT_DIR", str(folder)]
        cfg = setup_cfg(args)
        default_setup(cfg, args)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
    args.opts = [*options, "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(folder)]
    write_result(args.result, without_nan(measure(setup_cfg(args))["all"]))


if __name__ == "__main__":
    main()
