"""`dvis predict`: what a network finds in files, folders, videos and cameras, in the forms that are asked for."""

import contextlib
import functools
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from filelock import FileLock, Timeout
from tqdm import tqdm

from .._detectron2 import require_detectron2
from ..exported_file import ENDINGS
from ..inference.image_model import ImageModel
from ..inference.sources import STATE, Source, Unreadable, find_sources
from ..inference.writers import FORMATS, SourceWriter, record_path, write_tables
from ..runtime import Runtime
from ..safe_io import read_json, replacing
from .errors import UserError
from .pairs import CONFIG_PAIRS, check_pairs

FORMS = "\b\nForms of --save, and where in DIR:\n" + "\n".join(f"  {name:9}{text}" for name, text in FORMATS.items())


class Interrupted(UserError):
    exit_code = 130  # as the shell says of what Ctrl-C ended


class _Finite(click.FloatRange):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


@click.command(context_settings=CONFIG_PAIRS, epilog=FORMS)
@click.option("-o", "--output", required=True, metavar="DIR", help="A new or empty folder.")
@click.option(
    "--model",
    metavar="MODEL",
    help="A training's folder, a file of weights or of `dvis export`, a packaged name, a URL.",
)
@click.option("--config-file", metavar="FILE", help="Instead of --model, with MODEL.WEIGHTS FILE behind the inputs.")
@click.option("--save", multiple=True, type=click.Choice([*FORMATS]), default=["labels"], help="May be repeated.")
@click.option("--confidence-threshold", type=_Finite(0, 1), default=0.5, help="Least score; default: 0.5.")
@click.option("--scale", type=_Finite(0.01, 100), help="Network pixels a pixel; default: as trained.")
@click.option("--webcam", is_flag=True, help="What the first camera sees, until Ctrl-C.")
@click.option("--resume", is_flag=True, help="Go on in DIR with what is not complete there.")
@click.argument("arguments", metavar="INPUT... [KEY VALUE]...", nargs=-1, type=click.UNPROCESSED)
def predict(arguments: tuple[str, ...], output: str, model: str | None, config_file: str | None, **given) -> None:
    """Find objects in images, and write them in the forms of --save, by default as images of object numbers.

    INPUT is an image of one page or several, a video, a folder of these, a pattern in quotes, or a COCO file, whose
    images need no annotations.
    """
    exported = model if model and model.endswith(ENDINGS) else None  # which needs no Detectron2
    top = () if exported else _config_sections()
    keys = (i for i, a in enumerate(arguments) if a.partition(".")[0] in top and not os.path.exists(a))
    first = next(keys, len(arguments))
    opts = check_pairs(arguments[first:])
    sources, category_ids = find_sources(arguments[:first])
    sources += [Source("webcam", "webcam", camera=0)] * given["webcam"]
    if not sources or (model is None) == (config_file is None):
        raise click.UsageError("give an INPUT, or --webcam, and either --model or --config-file")
    check_output(output, sources, given["resume"])
    if exported and "panel" in given["save"]:
        raise click.UsageError("an exported model draws no panel: give the model itself")
    network = Runtime(exported) if exported else _trained(model, config_file, opts)
    options = {key: given[key] for key in ("confidence_threshold", "scale")} | {"opts": opts}
    if predict_sources(network, sources, output, given["save"], category_ids, **options):
        click.get_current_context().exit(1)


def _config_sections() -> Collection[str]:
    """What a config's key may begin with."""
    require_detectron2()
    from detectron2.config import get_cfg

    return get_cfg().keys()


def _trained(model: str | None, config_file: str | None, opts: Sequence[str]) -> ImageModel:
    from .. import engine
    from ..api import Model, load
    from .networks import program_arguments

    if model is not None:
        return load(model, opts=opts)
    return Model.from_config(engine.setup_cfg(program_arguments(opts, config_file=config_file), inference=True))


def check_output(output: str, sources: Sequence[Source], resume: bool) -> None:
    """UserError if `output` is no folder that a run may write to."""
    folder, there = os.path.join(os.path.realpath(output), ""), os.listdir(output) if os.path.isdir(output) else []
    inside = [source.path for source in sources if os.path.realpath(source.path).startswith(folder)]
    for wrong, what in (
        (not output, "'' is no folder"),  # say, of a shell's variable that is not set
        (os.path.exists(output) and not os.path.isdir(output), "is a file: a folder is needed"),
        (inside, f"holds an input, {inside[:1]}"),
        (there and not resume, "is not empty; --resume goes on in the folder of a run"),
        (there and STATE not in there, "is not a run's folder"),
    ):
        if wrong:
            raise UserError(f"{output} {what}\nTo do: give a new folder after -o")


def predict_sources(
    model: ImageModel,
    sources: Sequence[Source],
    output: str,
    formats: Sequence[str],
    category_ids: dict[str, int] | None = None,
    *,
    confidence_threshold: float = 0.5,
    scale: float | None = None,
    opts: Sequence[str] = (),
) -> list[str]:
    """Predict what is not complete, write the tables, and print a summary; the paths that could not be read.

    `category_ids`: by class name, by default from 1 on; `opts`: what changed the model's config. UserError if a class
    has no id, if `output` is of another run, and on Ctrl-C, which ends a camera's film in order.
    """
    names = model.class_names
    if missing := set(names) - (category_ids or dict.fromkeys(names, 0)).keys():
        raise UserError(f"the COCO file has no categories {sorted(missing)}\nTo do: add them, or give the image files")
    categories = [(category_ids[name] if category_ids else k, name) for k, name in enumerate(names, start=1)]
    settings: dict = {"save": sorted(formats), "confidence threshold": confidence_threshold, "scale": scale}
    settings |= {f"input {source.name}": os.path.realpath(source.path) for source in sources}
    weights = os.path.abspath(model.cfg.MODEL.WEIGHTS)
    changed = time.ctime(os.path.getmtime(weights)) if os.path.exists(weights) else ""
    options: dict = {"confidence_threshold": confidence_threshold, "scale": scale}
    with _held(output, settings | {"weights": weights, "weights written on": changed, "options": [*opts]}):
        return _predict_all(model, sources, output, formats, categories, options)


def _predict_all(
    model: ImageModel,
    sources: Sequence[Source],
    output: str,
    formats: Sequence[str],
    categories: Sequence[tuple[int, str]],
    options: dict,
) -> list[str]:
    failed: list[str] = []
    images, objects = 0, 0
    panel = functools.partial(getattr(model, "draw_panel", print), confidence_threshold=options["confidence_threshold"])
    too_large = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)  # without torch there is none
    todo = [source for source in sources if not record_path(output, source).exists()]
    with tqdm(total=len(todo), unit="image") as bar:
        for source in todo:
            try:
                with SourceWriter(output, source, formats) as writer:
                    with contextlib.suppress(*[KeyboardInterrupt] * (source.camera is not None)):
                        for frame in source.frames(model.cfg.INPUT.NORMALIZE):
                            bar.total += max(frame.total - 1, 0) if writer.images == 0 else 0
                            writer.add(frame, model.detect(frame.image, frame.pixels, **options), panel)
                            bar.update()
            except (Unreadable, too_large) as error:
                failed.append(source.path)
                bar.write(f"left out: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                command = shlex.join(["dvis", *(word for word in sys.argv[1:] if word != "--resume"), "--resume"])
                raise Interrupted(f"interrupted; what is complete is in {output}\nTo do: {command}") from None
            else:
                images, objects = images + writer.images, objects + writer.objects
    write_tables(output, sources, formats, categories)
    summary = [f"{output}: {objects} objects in {images} images"]
    if done := len(sources) - len(todo):
        summary.append(f"{done} inputs were complete")
    if failed:
        summary.append(f"{len(failed)} of {len(sources)} inputs could not be read")
    click.echo("; ".join(summary))
    return failed


@contextlib.contextmanager
def _held(output: str, settings: dict) -> Iterator[None]:
    """Hold a folder for one run, and write down what makes it, or compare that with the run that began there."""
    path = Path(output, STATE, "run.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path.with_name("lock")).acquire(timeout=0)
    except Timeout:
        raise UserError(f"another run is writing into {output}\nTo do: wait for it, or give a new folder") from None
    with lock:
        for rest in path.parent.glob("*.part*"):  # of a run that was killed
            rest.unlink()
        try:
            before = read_json(path) if path.exists() else {}
        except (OSError, ValueError):
            before = None
        if not isinstance(before, dict):
            raise UserError(f"{path} is damaged: nobody knows what the run was\nTo do: give a new folder after -o")
        for key, value in settings.items():
            if before.get(key, value) != value:
                what = f"{output} is of a run with {key} {before[key]}, not {value}"
                raise UserError(f"{what}\nTo do: give the same, or a new folder after -o")
        with replacing(path) as file:
            file.write(json.dumps(before | settings).encode())
        yield
