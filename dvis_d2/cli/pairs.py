"""Pairs KEY VALUE on a command line, which change the config."""

from collections.abc import Sequence

import click

# options may stand between KEY VALUE pairs, and a negative value is no option
CONFIG_PAIRS: dict = {"ignore_unknown_options": True}


def check_pairs(pairs: Sequence[str]) -> list[str]:
    """`pairs`, KEY, VALUE, KEY, ...; what does not look like it is a usage error."""
    for key in pairs[::2]:
        if key.startswith("-"):
            raise click.NoSuchOption(key)
    if len(pairs) % 2:
        raise click.UsageError(f"{pairs[-1]} has no value: give the config as pairs KEY VALUE")
    return list(pairs)
