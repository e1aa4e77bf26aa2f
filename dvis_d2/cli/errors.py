"""Errors of the user's as two lines: what is wrong and where, and what to do."""

import argparse
import contextlib
import difflib
import errno
import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import click

from ..data.dataset_errors import DatasetError, FormatError

# who raises a KeyError, ValueError or AssertionError in order to tell the user something
_SPEAKERS = ("dvis_d2.", "yacs.", "fvcore.", "detectron2.config.", "detectron2.data.")
# an error of a data loader's worker: the file of its last frame, and what it says
_IN_WORKER = re.compile(
    r'Caught \w+ in DataLoader worker.*File "([^"]+)", line \d+[^\n]*\n(?:  [^\n]*\n)*[\w.]+: (.*)', re.S
)


class UserError(click.ClickException):
    exit_code = 2

    def format_message(self) -> str:
        """Without the control characters that a file's name may have."""
        return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda match: ascii(match[0])[1:-1], self.message)


@contextlib.contextmanager
def explained(debug: bool = False) -> Iterator[None]:
    """Errors that the user can put right, here or in a process started from here, become :class:`UserError`."""
    try:
        yield
    except (Exception, SystemExit) as error:
        explanation = None if debug or isinstance(error, click.ClickException) else _explain(error)
        if explanation is None:
            raise
        raise UserError(explanation) from None


def run_explained(main: Callable, *args: Any) -> Any:
    """``main(*args)`` in a process that ``engine.launch`` started: the error's two lines get to the first process."""
    with explained():
        return main(*args)


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """:func:`engine.launch`, with :func:`explained` in every process."""
    from .. import engine

    context = click.get_current_context(silent=True)
    debug = args.debug or bool(context and context.find_root().params.get("debug"))
    engine.launch(main if debug else functools.partial(run_explained, main), args)


def run_program(main: Callable[[], object], debug: bool) -> None:
    """A program that is not of click, with the same errors and exit code."""
    try:
        with explained(debug):
            main()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


class UserErrors(click.Group):
    """A group whose commands show the errors that a user can put right as :class:`UserError`, unless ``--debug``."""

    def invoke(self, ctx: click.Context) -> Any:
        with explained(ctx.params.get("debug", False)):
            return super().invoke(ctx)


def _explain(error: BaseException) -> str | None:
    """What is wrong, and "To do: ..."; None for an error of the program."""
    kind = type(error).__name__
    if kind == "ProcessRaisedException":
        found = re.search(r"\.UserError: (.*)", str(error), re.S)
        return found and found[1].strip()
    if kind == "ProcessExitedException":
        return f"{error}\nTo do: if it ran out of memory, lower SOLVER.IMS_PER_BATCH; then --resume"
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    module, text = frame.f_globals.get("__name__", ""), str(error.args[0] if isinstance(error, KeyError) else error)
    if in_worker := _IN_WORKER.search(text):
        module, text = re.sub(r"\W+", ".", in_worker[1]), in_worker[2].strip()
    if isinstance(error, SystemExit):
        users = isinstance(error.code, str)
    elif isinstance(error, (KeyError, ValueError, AssertionError, NotImplementedError)):
        users = any(f".{speaker}" in f".{module}." for speaker in _SPEAKERS)
    else:
        users = isinstance(error, (OSError, ImportError, FloatingPointError))
    has_advice = text.count("\n") == 1 and (isinstance(error, FormatError) or not isinstance(error, DatasetError))
    own = "dvis_d2." in f"{module}." and has_advice
    return (text.replace("\n", "\nTo do: ") if own else f"{text}\nTo do: {_advice(error)}") if users else None


def _advice(error: BaseException) -> str:
    unknown = re.search(r"[Nn]on-existent (?:config )?key: (\S+)", str(error))
    if unknown:
        from detectron2.config import get_cfg

        from ..config import add_dvis_config, flat

        cfg = get_cfg()
        add_dvis_config(cfg)
        keys = [key for key, _ in flat(cfg)]
        similar = difflib.get_close_matches(unknown[1].strip("'"), keys, n=3)
        question = f"did you mean {' or '.join(similar)}? " if similar else ""
        return f"{question}all keys stand in dvis_d2/config.py and detectron2/config/defaults.py"
    if isinstance(error, DatasetError):
        return "correct the data; `dvis check JSON IMAGES` shows all that is wrong with a file"
    if isinstance(error, ImportError):
        return "install what is missing, with the command above where there is one, and try again"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on that disk; --resume goes on with what is complete"
    if isinstance(error, OSError):
        return f"correct the file or its path; a path that does not start with / is below {os.getcwd()}"
    return "correct this in the command or in the config file (--debug shows where it was noticed)"
