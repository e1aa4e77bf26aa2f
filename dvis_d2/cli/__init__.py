"""The console program ``dvis``."""

import click

from .. import __version__
from .._detectron2 import require_detectron2

try:
    require_detectron2()
except ImportError as error:
    raise SystemExit(f"Error: {error}") from None

from .datasets import check, convert
from .errors import UserErrors
from .explore import explore
from .export import export
from .networks import evaluate, train, tune
from .predict import predict
from .report import report


@click.group("dvis", cls=UserErrors)
@click.option("--debug", is_flag=True, envvar="DVIS_DEBUG", help="Show where an error arose; so does DVIS_DEBUG=1.")
@click.version_option(__version__, prog_name="dvis")
def main(debug: bool) -> None:
    """Instance segmentation by a variational loss: train, evaluate, predict, and look after data."""


for command in (train, evaluate, predict, explore, report, export, tune, check, convert):
    main.add_command(command)
