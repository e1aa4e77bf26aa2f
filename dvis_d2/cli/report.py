"""`dvis report`: what a model gets wrong, as one HTML file and as JSON."""

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from .. import __version__, engine
from ..api import Model
from ..checkpoint import stored_info
from ..config import add_dvis_config, flat, nested
from ..engine.console import data_name
from ..report import judge_images, summarize
from ..report.figures import read_curves
from ..report.page import write_page
from ..safe_io import replacing
from .networks import program_arguments
from .pairs import CONFIG_PAIRS, check_pairs


@click.command(context_settings=CONFIG_PAIRS)
@click.option("-o", "--output", metavar="FILE", help="An .html file; default: report.html in RUN.")
@click.option("--val-json", metavar="FILE", help="COCO annotations; default: those of the training's validation.")
@click.option("--val-images", metavar="DIR", help="Their images; default: beside the JSON.")
@click.option("--num-images", type=click.IntRange(1), metavar="N", help="At most, evenly chosen; default: all.")
@click.argument("run", metavar="RUN")
@click.argument("opts", metavar="[KEY VALUE]...", nargs=-1, callback=lambda _context, _parameter, v: check_pairs(v))
def report(run: str, opts: list[str], output: str | None, num_images: int | None, **data: Any) -> None:
    """Say what a model gets wrong, and which part of it does.

    RUN is the folder of a training; with --val-json also a packaged model or a file of weights, which need -o. The same
    as JSON lies beside the page. Both replace an earlier report.
    """
    folder = Path(run) if os.path.isdir(run) else None
    if not output and folder is None:
        raise click.UsageError("give -o FILE: RUN is no folder")
    path = Path(output or Path(run) / "report.html")
    if path.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"-o {path} does not end in .html")
    args = program_arguments(opts, model=run, config_file="", **data)
    cfg = engine.setup_cfg(args, inference=True)
    engine.require_weights_and_data(cfg, args)
    model = Model.from_config(cfg)
    statistics = stored_info(cfg.MODEL.WEIGHTS, args.config_file or None).get("statistics") or {}
    dataset, total = cfg.DATASETS.TEST[0], len(DatasetCatalog.get(cfg.DATASETS.TEST[0]))
    judged, pictures = judge_images(
        cfg, model.network, statistics or None, num_images=num_images, progress=lambda each: tqdm(each, unit="image")
    )
    words = ["dvis", "report", run, *(word for k, v in data.items() if v for word in (f"--{k.replace('_', '-')}", v))]
    words += ["--num-images", str(num_images)] if num_images else []
    words += [*(["-o", output] if output else []), *opts]
    about = {"model": run, "weights": cfg.MODEL.WEIGHTS, "dataset": data["val_json"] or data_name(dataset)}
    about |= {"version": __version__, "command": shlex.join(words), "sampled": total if len(judged) < total else 0}
    said: dict[str, Any] = {
        "about": about,
        "results": summarize(judged, model.class_names),
        "curves": read_curves(folder) if folder else {},
        "data": statistics,
        "config": _changed(cfg),
    }
    written = []
    for target, text in (
        (path, write_page(said, pictures)),
        (path.with_suffix(".json"), json.dumps(said, indent=1)),
    ):
        with replacing(target) as file:
            file.write(text.encode())
        written.append(str(target))
    ap = ", ".join(f"{name} {value:.1f}" for name, value in said["results"]["ap"].items())
    click.echo(f"{len(judged)} images: segm {ap}; {' and '.join(written)} written")


def _changed(cfg: Any) -> str:
    """The keys whose values are not the defaults, as YAML."""
    defaults = get_cfg()
    add_dvis_config(defaults)
    before = dict(flat(yaml.safe_load(defaults.dump())))
    after = dict(flat(yaml.safe_load(cfg.dump())))
    return yaml.safe_dump(nested({k: v for k, v in after.items() if before.get(k) != v}), default_flow_style=None)
