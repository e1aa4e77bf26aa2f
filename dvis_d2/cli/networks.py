"""Commands that need data and a network: train, eval, tune."""

import argparse
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import torch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from .. import engine
from ..checkpoint import DVISCheckpointer, class_names
from ..config import packaged
from ..engine.console import data_name
from ..inference.overlay import write_picture
from ..inference.visualization import draw_sheet
from ..tuning import merge_tuned_thresholds
from ..tuning.search import store_tuning, tune_thresholds
from .errors import UserError, launch
from .pairs import CONFIG_PAIRS, check_pairs

SHEET_CONFIDENCE = 0.5  # least score of the detections on sheet.png

config_file = click.option(
    "--config-file", metavar="FILE", help="A YAML file; those of dvis_d2 are found from anywhere."
)
num_gpus = click.option(
    "--num-gpus", type=click.IntRange(1), default=1, help="Processes on this machine, each with a GPU if there are any."
)


def config_options(command: Callable) -> Callable:
    """Own data, and KEY VALUE pairs."""
    raw, metavar = click.UNPROCESSED, "[KEY VALUE]..."
    pairs = click.argument("opts", metavar=metavar, nargs=-1, type=raw, callback=lambda _ctx, _param, v: check_pairs(v))
    command = pairs(command)
    for split, use in (("val", "evaluate"), ("train", "train")):
        images = click.option(f"--{split}-images", metavar="DIR", help="Their images; default: beside the JSON.")
        annotations = click.option(f"--{split}-json", metavar="FILE", help=f"COCO annotations to {use} on.")
        command = annotations(images(command))
    model = "A packaged model, the folder of a training, or a file of weights."
    return click.option("--model", metavar="MODEL", help=model)(command)


def program_arguments(opts: Sequence[str], **given: Any) -> argparse.Namespace:
    """The arguments of train_net.py, with their defaults where nothing is given."""
    return engine.argument_parser().parse_args(opts, argparse.Namespace(dist_url="auto", **given))


@click.command(context_settings=CONFIG_PAIRS)
@click.option("--data", metavar="FOLDER", help="Your images and masks in any common format; the recipe follows.")
@click.option("--output", metavar="DIR", help="Where all goes (OUTPUT_DIR); with --data, by default output/FOLDER.")
@click.option(
    "--config-file", default="", metavar="FILE", help="A YAML file instead of the recipe; dvis_d2's by their names."
)
@config_options
@num_gpus
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in OUTPUT_DIR, if there is one.")
@click.option("--sheet-images", type=click.IntRange(0), default=12, show_default=True, help="On sheet.png; 0: none.")
def train(sheet_images: int, **given: Any) -> None:
    """Train, evaluate, and draw a sheet of validation images.

    --data takes COCO JSON, label images, binary masks, YOLO outlines and LabelMe JSON, and draws images for validation
    where there are none. --model starts from what a model has learnt. The output folder gets model_final.pth,
    results.json and sheet.png. KEY VALUE pairs change the config: SOLVER.BASE_LR 0.001.
    """
    args = program_arguments(**given, quiet=True)
    if missing := engine.missing_arguments(args):
        raise click.UsageError(missing)
    launch(functools.partial(train_and_report, sheet_images=sheet_images), args)


def train_and_report(args: argparse.Namespace, *, sheet_images: int) -> None:
    """Train in every process; the main one reports, if there is something to evaluate on."""
    cfg, results = engine.train(args)
    if not results or not comm.is_main_process():
        return
    with open(os.path.join(cfg.OUTPUT_DIR, "results.json"), "w") as f:
        # JSON has no nan, which COCO's metrics use for "no such objects"
        json.dump(json.loads(json.dumps(results, default=float), parse_constant=lambda _: None), f, indent=2)
    pictures = ""
    if sheet_images:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
        if cfg.TEST.TUNE_THRESHOLDS:
            merge_tuned_thresholds(cfg)
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = SHEET_CONFIDENCE
        path = os.path.join(cfg.OUTPUT_DIR, "sheet.png")
        write_picture(path, draw_sheet(cfg, sheet_images))
        pictures = f"; pictures: {path}"
    by_dataset = results if len(cfg.DATASETS.TEST) > 1 else {cfg.DATASETS.TEST[0]: results}
    for name, tasks in by_dataset.items():
        print(f"{data_name(name)}: {summarize(tasks)}{pictures}")


def summarize(results: Mapping[str, Mapping[str, float]]) -> str:
    """The first two metrics of the masks' task, say "segm AP 80.5, AP50 95.1"."""
    task = "segm" if "segm" in results else next(iter(results))
    metrics = list(results[task].items())[:2]
    return f"{task} " + ", ".join(f"{name} {value:.1f}" for name, value in metrics)


@click.command("eval", context_settings=CONFIG_PAIRS)
@config_file
@config_options
@num_gpus
@click.option("--resume", is_flag=True, help="Evaluate the last checkpoint in OUTPUT_DIR instead of MODEL.WEIGHTS.")
def evaluate(**given: Any) -> None:
    """Evaluate MODEL.WEIGHTS on DATASETS.TEST."""
    launch(engine.evaluate, program_arguments(**given, eval_only=True))


@click.command(context_settings=CONFIG_PAIRS)
@config_file
@config_options
@click.option("--num-images", type=click.IntRange(2), default=400, show_default=True, help="At most, evenly chosen.")
def tune(num_images: int, **given: Any) -> None:
    """Tune the inference thresholds of MODEL.WEIGHTS on DATASETS.TEST.

    Half of the images are tuned on; the other half decides whether the values are written to thresholds.yaml beside the
    weights, which evaluation and prediction take from there.
    """
    setup_logger(name="fvcore")
    args = program_arguments(**given)
    cfg = engine.setup_cfg(args, inference=True, tuned=False)
    engine.require_weights_and_data(cfg, args)
    if os.path.dirname(cfg.MODEL.WEIGHTS) == str(packaged("models")):  # with others, which must not take its thresholds
        what = f"the thresholds of {given['model']} would count for all packaged models"
        raise UserError(f"{what}\nTo do: copy {cfg.MODEL.WEIGHTS} into a folder of your own, and tune that")
    model = engine.Trainer.build_model(cfg)
    DVISCheckpointer(model, info={"class_names": class_names(cfg, cfg.DATASETS.TEST)}).load(cfg.MODEL.WEIGHTS)
    with torch.no_grad():
        tuning = tune_thresholds(cfg, model, num_images=num_images)
    path = store_tuning(tuning, os.path.dirname(cfg.MODEL.WEIGHTS))
    click.echo(f"{tuning.table()}\n{tuning.verdict()}\n{path} written")
