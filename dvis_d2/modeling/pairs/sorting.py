"""Stable sorting of integers, and searching a sorted sequence in a shifted copy of itself.

On the CPU NumPy is several times faster than torch at both: its stable sort is a radix sort for 16-bit digits,
and for two sorted runs one after the other a merge. Where tensors lie elsewhere, or NumPy is not installed,
torch's own functions give the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import numpy as np
except ImportError:  # torch works without
    np = None


def stable_argsort(keys: Tensor, order: Tensor | None = None) -> Tensor:
    """The order that sorts integers and keeps ties.

    Args:
        keys: int32 or int64 (P,).
        order: int64 (P,), a permutation: the order in which ties are to be kept, by default that of ``keys``.

    Returns:
        int64 (P,).
    """
    if not _has_numpy(keys):
        return keys.argsort(stable=True) if order is None else order[keys[order].argsort(stable=True)]
    digits = keys.numpy()
    order = None if order is None else order.numpy()
    # Least significant digit first. The last digit carries the sign, the others are unsigned.
    bits = max(int(digits.max(initial=0)), ~int(digits.min(initial=0))).bit_length()
    for shift in range(0, bits + 1, 16):
        digit = (digits >> shift).astype(np.int16 if shift + 16 > bits else np.uint16)
        if order is None:
            order = np.argsort(digit, kind="stable")
        else:
            order = order.take(np.argsort(digit.take(order), kind="stable"))
    return torch.from_numpy(order)


def partner_ranges(key: Tensor, distance: float) -> tuple[Tensor, Tensor]:
    """For every entry the range of entries at most ``distance`` below it, and above it.

    Args:
        key: float64 (E,), ascending, not below ``distance``.
        distance: > 0.

    Returns:
        first, last, int64 (E,): first[i] .. i are the entries that lie at most ``distance`` below entry i, and i
        .. last[i] - 1 those above, up to rounding of the distance; every pair of entries is in both ranges
        that it could be in or in none. Within 0 .. E, even where keys are NaN.
    """
    if not _has_numpy(key):
        first = torch.searchsorted(key, key - distance)
        # ``first`` ascends, so the entries whose range includes j are those after j with first <= j: counting
        # them gives the upper end without a second search, and a pair is seen from both of its ends.
        starting = torch.zeros(len(key) + 1, dtype=torch.int64, device=key.device)
        return first, starting.scatter_add_(0, first, torch.ones_like(first))[:-1].cumsum(0)
    # The bits of floats >= 0 sort as the floats do. Their lowest bit is made to tell the shifted copy, which goes
    # first at ties, from the keys; the positions of the two in their merged order then say it all.
    size = len(key)
    merged = np.empty(2 * size)
    np.subtract(key.numpy(), distance, out=merged[:size])
    merged[size:] = key.numpy()
    bits = merged.view(np.int64)
    bits[:size] &= ~1
    bits[size:] |= 1
    bits.sort(kind="stable")
    is_key = bits.astype(np.uint8)
    is_key &= 1
    is_key = is_key.view(bool)
    count = np.arange(size)
    last = np.flatnonzero(is_key)
    last -= count
    first = np.flatnonzero(np.logical_not(is_key, out=is_key))
    first -= count
    return torch.from_numpy(first), torch.from_numpy(last)


def true_positions(mask: Tensor) -> Tensor:
    """int64: the positions, ascending, where ``mask``, bool (P,), is true."""
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if _has_numpy(mask) else mask.nonzero().squeeze(1)


def ascending_bits(value: Tensor) -> Tensor:
    """Integers (P,) that sort as the floats ``value`` do: int64 for float64, int32 for all others."""
    if value.dtype == torch.float64:
        bits, sign_bit, magnitude = value.view(torch.int64), 63, 0x7FFF_FFFF_FFFF_FFFF
    else:
        bits, sign_bit, magnitude = value.float().view(torch.int32), 31, 0x7FFF_FFFF
    return bits ^ ((bits >> sign_bit) & magnitude)


def _has_numpy(x: Tensor) -> bool:
    return np is not None and x.device.type == "cpu"
