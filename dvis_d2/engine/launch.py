"""What train_net.py and the program `dvis` do: the config of a command line, the processes, and what each runs."""

import argparse
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as spawn
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from torch import nn
from torch.multiprocessing import ProcessExitedException

from ..checkpoint import DVISCheckpointer, class_names, find_weights, merge_stored, settle_device, stored_info
from ..config import add_dvis_config, find_config, load_config
from ..data import register_from_config
from ..data.formats import convert_folder
from ..processes import guarded, time_limit
from ..tuning import check_thresholds, merge_tuned_thresholds
from .console import Progress, resume_command, setup_console, setup_logs, setup_training
from .output_folder import output_folder
from .recipe import lay_recipe
from .trainer import Trainer


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and those that name one's own data and where the training goes."""
    parser = default_argument_parser()
    parser.add_argument("--debug", action="store_true", help="show where an error arose; so does DVIS_DEBUG=1")
    parser.set_defaults(debug=bool(os.environ.get("DVIS_DEBUG")))
    parser.add_argument("--data", metavar="FOLDER", help="own images and masks in any common format; needs no config")
    parser.add_argument("--output", metavar="DIR", help="the same as OUTPUT_DIR; default with --data: output/FOLDER")
    group = parser.add_argument_group("own data in COCO format (the same as DATASETS.CUSTOM.* in the config)")
    for split, use in (("train", "train"), ("val", "evaluate")):
        group.add_argument(f"--{split}-json", metavar="FILE", help=f"annotations to {use} on")
        group.add_argument(f"--{split}-images", metavar="DIR", help="their images; default: beside the JSON")
    return parser


def missing_arguments(args: argparse.Namespace) -> str:
    """What to say to whoever gave neither data nor a config; "" where there are some."""
    if any(getattr(args, name) for name in ("data", "train_json", "config_file", "resume")):
        return ""
    return (
        "nothing to train on: --data, --train-json and --config-file are missing\n"
        "  your own images: --data FOLDER --output output/mine\n"
        "  a config: --config-file configs/shapes/shapes.yaml    (all options: --help)"
    )


def setup_cfg(
    args: argparse.Namespace,
    *,
    inference: bool = False,
    tuned: bool = True,
    extra: Sequence[Callable[[CfgNode], None]] = (),
) -> CfgNode:
    """The frozen config of a command line: defaults, ``--config-file``, which becomes what :func:`find_config` finds,
    own data, which are converted, checked and registered, ``opts``. The device is CUDA where there is one, unless they
    say. Own data without a config bring their recipe (:mod:`.recipe`); with ``--resume`` they go on with the config in
    ``OUTPUT_DIR``, as they do with its data.

    With `inference`, no training data are read, and ``MODEL.WEIGHTS`` becomes what :func:`find_weights` finds, with
    ``args.resume`` the last checkpoint in ``OUTPUT_DIR``; it gives the config where there is no file of one. With
    `tuned`, the thresholds tuned for it are taken, except those in ``opts``; not for training, where the grouping
    decides which proposals the heads learn from. Each of `extra` adds keys of its own to the config, before the file is
    read. KeyError for an unknown key, FileNotFoundError for an unknown file, DatasetError for unfit data.
    """
    setup_console("dvis_d2", getattr(args, "quiet", False))
    cfg = get_cfg()
    for add_keys in (add_dvis_config, *extra):
        add_keys(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    source, output, resume = (getattr(args, name, None) for name in ("data", "output", "resume"))
    if source and not output and not args.config_file:
        output = os.path.join("output", Path(source).resolve().stem)
    folder = dict(zip(args.opts[::2], args.opts[1::2], strict=True)).get("OUTPUT_DIR", output)
    if resume and not args.config_file and folder and os.path.isfile(saved := os.path.join(folder, "config.yaml")):
        args.config_file = saved
    if args.config_file:
        args.config_file = find_config(args.config_file)
        load_config(cfg, args.config_file)
    elif inference and (weights := dict(zip(args.opts[::2], args.opts[1::2], strict=False)).get("MODEL.WEIGHTS")):
        merge_stored(cfg, stored_info(find_weights(weights)), weights)
    for key in ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES"):
        value = getattr(args, key.lower(), None)
        if value is not None:
            cfg.DATASETS.CUSTOM[key] = value
    cfg.OUTPUT_DIR = output or cfg.OUTPUT_DIR
    cfg.merge_from_list(args.opts)
    custom, says = cfg.DATASETS.CUSTOM, logging.getLogger(__name__).info
    if source:
        started = os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
        found = convert_folder(source, cfg.OUTPUT_DIR, keep=bool(resume) or started)
        custom.TRAIN_JSON, custom.VAL_JSON = found.train_json, found.val_json
        custom.TRAIN_IMAGES = custom.VAL_IMAGES = found.image_root
        says("%s", found.summary)
    register_from_config(cfg, train=not inference)
    if custom.TRAIN_JSON and not args.config_file and not inference:
        says("%s", lay_recipe(cfg, args.opts))
    if inference:
        last = DVISCheckpointer(nn.Module(), cfg.OUTPUT_DIR).get_checkpoint_file() if vars(args).get("resume") else ""
        cfg.MODEL.WEIGHTS = last or (cfg.MODEL.WEIGHTS and find_weights(cfg.MODEL.WEIGHTS))
    if inference and tuned:
        merge_tuned_thresholds(cfg, args.opts)
    check_thresholds(cfg)
    settle_device(cfg)
    cfg.freeze()
    return cfg


def require_weights_and_data(cfg: CfgNode, args: argparse.Namespace) -> None:
    """ValueError where ``MODEL.WEIGHTS`` or ``DATASETS.TEST`` is empty."""
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("there are no weights\nappend MODEL.WEIGHTS and the file of a trained model")
    if not cfg.DATASETS.TEST:
        named = args.config_file or cfg.MODEL.WEIGHTS
        what = f"there is no {args.val_json}" if args.val_json else f"{named} names no validation data here"
        raise ValueError(f"{what}\ngive --val-json FILE and, if its images are elsewhere, --val-images FOLDER")


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
