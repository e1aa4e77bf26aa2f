"""Options that are numbers."""

import math


def check_range(low: float = 0, high: float = math.inf, /, **options: float) -> None:
    """ValueError, naming the option, unless all are finite numbers from `low` to `high`."""
    for name, value in options.items():
        if not (low <= value <= high and math.isfinite(value)):
            wanted = f">= {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise ValueError(f"{name} must be a number {wanted}, not {value}")
