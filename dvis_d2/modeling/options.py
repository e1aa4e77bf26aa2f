"""Options that are numbers."""

import math


def check_range(name: str, value: float, low: float = 0, high: float = math.inf) -> None:
    """ValueError, naming the option, unless `value` is a finite number from `low` to `high`."""
    if not (low <= value <= high and math.isfinite(value)):
        wanted = f">= {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} must be a number {wanted}, not {value}")
