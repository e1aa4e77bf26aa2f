"""Warnings that are said once, whatever is read or run again and again."""

import logging
import sys

_said: set[tuple[str, int]] = set()  # places in the code


def warn_once(message: str) -> None:
    """Log a warning, by the caller's module, unless this place in the code has done so."""
    frame = sys._getframe(1)
    place = frame.f_code.co_filename, frame.f_lineno
    if place not in _said:
        _said.add(place)
        logging.getLogger(frame.f_globals["__name__"]).warning(message)
