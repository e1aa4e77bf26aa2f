"""What train_net.py and the program `dvis` do: the processes, and what each runs."""

import argparse
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import launch as spawn
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException

from ..checkpoint import DVISCheckpointer, class_names
from ..processes import guarded, time_limit
from .console import Progress, resume_command, setup_logs, setup_training
from .output_folder import output_folder
from .setup import require_weights_and_data, setup_cfg
from .trainer import Trainer


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """Run ``main(args)``, with the arguments of :func:`argument_parser`, in every process: in those that torchrun
    started, or in ``args.num_gpus`` new ones. They talk by NCCL where there is CUDA and by gloo on CPUs. SystemExit if
    there are more processes on this machine than GPUs, or both ways are asked for."""
    torchrun = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys()
    if torchrun and (args.num_gpus, args.num_machines, args.machine_rank) != (1, 1, 0):
        raise SystemExit("torchrun starts the processes itself: leave out --num-gpus, --num-machines, --machine-rank")
    num_processes = int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun else args.num_gpus
    cuda = torch.cuda.is_available()
    if cuda and num_processes > torch.cuda.device_count():
        raise SystemExit(
            f"{num_processes} processes on a machine with {torch.cuda.device_count()} GPUs: start fewer (--num-gpus, "
            "or torchrun's --nproc-per-node), or hide the GPUs with CUDA_VISIBLE_DEVICES= to use the CPU"
        )
    limit = time_limit()
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells of all that it ends
    try:
        if not torchrun:
            machines = (args.num_machines, args.machine_rank)
            spawn(guarded, num_processes, *machines, args.dist_url, args=(main, args), timeout=limit)
            return
        if cuda:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if cuda else "gloo", timeout=limit)
        comm.create_local_process_group(num_processes)
        comm.synchronize()
        guarded(main, args)
        dist.destroy_process_group()
    except ProcessExitedException as error:  # which has said why
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        if comm.is_main_process():
            command = "the same command with --resume" if torchrun else resume_command()
            print("\nStopped." + ("" if args.eval_only else f" To go on from the last checkpoint:\n  {command}"))
        raise SystemExit(130) from None


def train(args: argparse.Namespace) -> tuple[CfgNode, dict]:
    """Train to the end and evaluate; the config and the results, empty where ``DATASETS.TEST`` is."""
    cfg = setup_cfg(args)
    quiet = getattr(args, "quiet", False)
    with output_folder(cfg.OUTPUT_DIR, resume=args.resume) if comm.is_main_process() else contextlib.nullcontext():
        saved = Path(cfg.OUTPUT_DIR, "config.yaml")
        if args.config_file and not args.resume and saved.is_file() and saved.samefile(args.config_file):
            if saved.read_text(encoding="utf-8") != cfg.dump():
                raise FileExistsError(f"{saved} would be overwritten by the training's\ngive another OUTPUT_DIR")
        setup_training(cfg, args, quiet)
        trainer = Trainer(cfg)
        if quiet and comm.is_main_process():
            trainer.register_hooks([Progress()])
        trainer.resume_or_load(resume=args.resume)
        return trainer.cfg, trainer.train()


def evaluate(args: argparse.Namespace) -> dict:
    """The results of ``MODEL.WEIGHTS``, or, with ``args.resume``, of the last checkpoint in ``OUTPUT_DIR``, with the
    thresholds tuned for it."""
    cfg = setup_cfg(args, inference=True)
    require_weights_and_data(cfg, args)
    setup_logs(cfg.OUTPUT_DIR)  # not `setup_training`: config.yaml in OUTPUT_DIR is the training's
    model = Trainer.build_model(cfg)
    checkpointer = DVISCheckpointer(model, info={"class_names": class_names(cfg, cfg.DATASETS.TEST)})
    statistics = (checkpointer.load(cfg.MODEL.WEIGHTS).get("dvis") or {}).get("statistics")
    results = Trainer.test(cfg, model, statistics=statistics)
    if cfg.TEST.AUG.ENABLED:
        results.update(Trainer.test_with_tta(cfg, model))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(args: argparse.Namespace) -> dict:
    """The results of a command line of :func:`argument_parser`."""
    return evaluate(args) if args.eval_only else train(args)[1]
