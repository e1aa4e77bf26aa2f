"""NumPy arrays or torch tensors: what runs after the network is written once, for both, and needs NumPy alone.

Small steps that training takes on the GPU are written for either type; all others run on the host, in NumPy.
"""

import contextlib
import functools
import math
import mmap
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

_LARGE = 1 << 22  # bytes; NumPy asks for large pages from here on
F = TypeVar("F", bound=Callable)


def to_host(value: Any) -> Any:
    """The NumPy array of a tensor on any device, half precision as float32; all else as it is."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach()
    return (value.float() if value.is_floating_point() and value.element_size() < 4 else value).cpu().numpy()


def like(array: Any, other: Any) -> Any:
    """An array as the type that `other` is, on its device; a tensor stays what it is."""
    if not isinstance(array, np.ndarray) or isinstance(other, np.ndarray):
        return array
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(other.device)


def floats(array: Any) -> Any:
    """float32, of the type that it is."""
    return array.astype(np.float32) if isinstance(array, np.ndarray) else array.float()


def zeros(shape: tuple[int, ...], kind: Any) -> Any:
    """Zeros of the type, dtype and device of `kind`. Large arrays take memory only in the pages that are written, which
    are few where each of many maps has one small object; NumPy's own ask for pages larger than such a map."""
    if not isinstance(kind, np.ndarray):
        return kind.new_zeros(shape)
    size = math.prod(shape) * kind.dtype.itemsize
    if size < _LARGE or not hasattr(mmap, "MADV_NOHUGEPAGE"):  # which only Linux has
        return np.zeros(shape, kind.dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # where the kernel knows no other pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, kind.dtype).reshape(shape)


def on_host(function: F) -> F:
    """Tensors among the arguments of a NumPy function become arrays, and then its result tensors, on the device of the
    first: an array, or a tuple of arrays."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        given = [*args, *kwargs.values()]
        first = next((value for value in given if hasattr(value, "detach")), None)
        result = function(*map(to_host, args), **{name: to_host(value) for name, value in kwargs.items()})
        if first is None:
            return result
        return tuple(like(part, first) for part in result) if isinstance(result, tuple) else like(result, first)

    return wrapped  # type: ignore[return-value]
