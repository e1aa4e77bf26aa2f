"""The console program ``dvis``."""

import click

from .. import __version__
from .._detectron2 import INSTALL_HINT, has_detectron2, require_detectron2
from .errors import UserErrors
from .predict import predict


class _Program(UserErrors):
    """Where Detectron2 is missing there is only what an exported model needs."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.commands and not has_detectron2():
            raise click.ClickException(f"{INSTALL_HINT}\n`dvis predict` alone works without, with --model FILE.onnx")
        return super().get_command(ctx, name)


@click.group("dvis", cls=_Program)
@click.option("--debug", is_flag=True, envvar="DVIS_DEBUG", help="Show where an error arose; so does DVIS_DEBUG=1.")
@click.version_option(__version__, prog_name="dvis")
def main(debug: bool) -> None:
    """Instance segmentation by a variational loss: train, evaluate, predict, and look after data."""


main.add_command(predict)
if has_detectron2():
    try:
        require_detectron2()
    except ImportError as error:
        raise SystemExit(f"Error: {error}") from None
    from .datasets import check, convert
    from .explore import explore
    from .export import export
    from .networks import evaluate, train, tune
    from .report import report

    for command in (train, evaluate, explore, report, export, tune, check, convert):
        main.add_command(command)
