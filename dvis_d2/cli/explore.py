"""`dvis explore`: a model's label maps in the browser."""

import webbrowser

import click

from ..inference.sources import Source, find_sources
from .errors import UserError
from .pairs import CONFIG_PAIRS


@click.command(context_settings=CONFIG_PAIRS)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: one that is free.")
@click.option("--device", metavar="NAME", help="cpu, cuda, ...; default: CUDA where there is some.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.argument("model", metavar="MODEL")
@click.argument("images", metavar="[IMAGE]...", nargs=-1)
def explore(model: str, images: tuple[str, ...], port: int, device: str | None, no_browser: bool) -> None:
    """Look at label maps in the browser, and move the thresholds.

    MODEL is a packaged model, the folder of a training, or a file of weights. IMAGE is an image, a folder, a pattern in
    quotes, or a COCO file, whose annotations are compared with what is found; more can be dropped onto the page. The
    page is for this machine alone. Ctrl-C ends it.
    """
    try:
        from ..explorer.server import Page
    except ImportError as error:
        raise ImportError(f"dvis explore needs {error.name}: pip install starlette uvicorn", name=error.name) from None
    from ..explorer.session import Explorer, read_truth

    sources, categories = find_sources(images) if images else (list[Source](), None)
    if films := [source.path for source in sources if source.is_video]:
        raise UserError(f"{films[0]} is a video\nTo do: give images; `dvis predict --save overlay` draws on videos")
    explorer = Explorer(model, sources, device=device)
    if categories is not None:
        explorer.truth = read_truth(images[0], explorer.class_names)
    with Page(explorer, port) as page:
        click.echo(f"{page.address}\nCtrl-C ends it")
        if not no_browser:
            webbrowser.open(page.address)
        page.run()
