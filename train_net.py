#!/usr/bin/env python
"""Train or evaluate DVIS. See README.md, or `python train_net.py --help`."""

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from dvis_d2.engine import Trainer, argument_parser, launch, setup_cfg


def main(args):
    # a resumed run takes its weights from OUTPUT_DIR: thresholds tuned for MODEL.WEIGHTS are not for them
    cfg = setup_cfg(args, inference=args.eval_only and not args.resume)
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(Trainer.test_with_tta(cfg, model))
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = argument_parser().parse_args()
    print("Command line arguments:", args)
    launch(main, args)
