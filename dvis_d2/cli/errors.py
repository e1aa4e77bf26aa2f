"""Errors of the user's as two lines: what is wrong and where, and what to do."""

import difflib
import os
import re
import traceback
from typing import Any

import click
from detectron2.config import CfgNode, get_cfg

from ..config import add_dvis_config
from ..data import DatasetError
from ..data.mask_folders import FormatError

# who raises a KeyError, ValueError or AssertionError in order to tell the user something
_SPEAKERS = ("dvis_d2.", "yacs.", "fvcore.", "detectron2.config.", "detectron2.data.")


class UserError(click.ClickException):
    exit_code = 2


class UserErrors(click.Group):
    """A group whose commands show the errors that a user can put right as :class:`UserError`, unless ``--debug``."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, SystemExit) as error:
            if ctx.params.get("debug") or not _is_users(error):
                raise
            what = error.args[0] if isinstance(error, KeyError) else getattr(error, "what", error)
            raise UserError(f"{what}\nTo do: {_advice(error)}") from None


def _is_users(error: BaseException) -> bool:
    if isinstance(error, SystemExit):
        return isinstance(error.code, str)
    if isinstance(error, (KeyError, ValueError, AssertionError, NotImplementedError)):
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        return f"{frame.f_globals.get('__name__', '')}.".startswith(_SPEAKERS)
    return isinstance(error, (OSError, ImportError, FloatingPointError))


def _advice(error: BaseException) -> str:
    unknown = re.search(r"[Nn]on-existent (?:config )?key: (\S+)", str(error))
    if unknown:
        cfg = get_cfg()
        add_dvis_config(cfg)
        similar = difflib.get_close_matches(unknown[1].strip("'"), _keys(cfg), n=3)
        question = f"did you mean {' or '.join(similar)}? " if similar else ""
        return f"{question}all keys stand in dvis_d2/config.py and detectron2/config/defaults.py"
    if isinstance(error, FormatError):
        return error.advice
    if isinstance(error, DatasetError):
        return "correct the data; `dvis check JSON IMAGES` shows all that is wrong with a file"
    if isinstance(error, ImportError):
        return "install what is missing, with the command above where there is one, and try again"
    if isinstance(error, OSError):
        return f"correct the file or its path; a path that does not start with / is below {os.getcwd()}"
    return "correct this in the command or in the config file (--debug shows where it was noticed)"


def _keys(node: CfgNode, prefix: str = "") -> list[str]:
    nested = [_keys(v, f"{prefix}{k}.") if isinstance(v, CfgNode) else [prefix + k] for k, v in node.items()]
    return [key for part in nested for key in part]
