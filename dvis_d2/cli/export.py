"""`dvis export`: a trained model as a file that runs without torch and Detectron2."""

import os

import click

from .errors import UserError
from .pairs import CONFIG_PAIRS, check_pairs


@click.command(context_settings=CONFIG_PAIRS)
@click.argument("model", metavar="MODEL")
@click.argument("opts", metavar="[KEY VALUE]...", nargs=-1, type=click.UNPROCESSED)
@click.option("-o", "--output", required=True, metavar="FILE", help="A new file.onnx, or file.pt for TorchScript.")
@click.option("--precision", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
def export(model: str, opts: tuple[str, ...], output: str, precision: str) -> None:
    """Write MODEL (the folder of a training, a file of weights, a packaged model's name) as one file.

    `dvis predict --model FILE` and dvis_d2.runtime.Runtime take it; size, batch and number of proposals stay free,
    and the preprocessing, thresholds and class names are in it. float16: weights take half the space, no less time.
    ONNX needs onnxruntime, and no torch; OpenVINO and others read it too.
    """
    from ..model_export import export_model  # which takes seconds to import

    if os.path.exists(output):
        raise UserError(f"{output} exists\nTo do: give a new file after -o, or remove it")
    found = export_model(model, output, precision=precision, opts=check_pairs(opts))
    size, difference = os.path.getsize(output) / 2**20, found["difference"]
    print(f"{output}: {size:.1f} MiB, {precision}; differs from torch by {difference:.1g}")
