"""Tables in Markdown, means with their spread, and figures as JSON has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tabulate import tabulate


def markdown_table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Cells as they are: format numbers before."""
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and, from two values on, their sample standard deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def format_mean(mean: float, spread: float | None, number_format: str = ".1f", factor: float = 1) -> str:
    text = format(factor * mean, number_format)
    return text if spread is None else f"{text} ± {format(factor * spread, number_format)}"


def without_nan(value):
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value
