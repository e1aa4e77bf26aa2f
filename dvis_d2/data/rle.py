"""Run-length encoded masks, COCO's RLE, read with nothing taken on trust.

pycocotools believes what it is given: an RLE whose counts are cut by one character lets its IoU loop for ever. What
comes out of a file is therefore decoded here first. Runs go down the columns, the first of them is background.
"""

import re
from typing import Any

import numpy as np

MAX_PIXELS = 2**31 - 1  # of a mask; pycocotools counts in 32 bits
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in px


def run_lengths(rle: Any) -> np.ndarray:
    """int64 (R,) of {"size": [height, width], "counts": list, str or bytes}, of bounded memory and time.

    ValueError, which says why, unless they are integers of at least 0 that add up to height x width.
    """
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if not isinstance(size, list | tuple) or [isinstance(s, int | np.integer) and s >= 0 for s in size] != [True] * 2:
        raise ValueError("its size is not [height, width]")
    if (pixels := int(size[0]) * int(size[1])) > MAX_PIXELS:
        raise ValueError(f"its size {list(size)} is more than {MAX_PIXELS:,} pixels")
    if isinstance(counts, str | bytes):
        runs = _decompress(counts)
    else:
        runs = np.array(counts if isinstance(counts, list | tuple) else None)
        if runs.ndim != 1 or runs.dtype.kind not in "iu":
            raise ValueError("its counts are neither a string nor a list of integers")
    if len(runs) and (runs.min() < 0 or runs.max() > pixels):
        raise ValueError(f"a run of {min(runs.min(), 0) or runs.max()} pixels" + _cause(counts))
    if (total := int(runs.sum())) != pixels:
        raise ValueError(f"its runs add up to {total}, not to {size[0]} x {size[1]} = {pixels}" + _cause(counts))
    return runs.astype(np.int64, copy=False)


def checked_runs(rle: dict, where: str) -> np.ndarray:
    """:func:`run_lengths`, with an error that names `where`."""
    try:
        return run_lengths(rle)
    except ValueError as error:
        raise ValueError(f"{where}: its RLE cannot be decoded ({error}); write the mask again") from error


def decode_rle(rle: dict, where: str) -> np.ndarray:
    """uint8 (h, w), 0 or 1, of a COCO RLE, compressed or not. ValueError, naming `where`, if it is broken."""
    runs = checked_runs(rle, where)
    return np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs).reshape(rle["size"][::-1]).T


def runs_box(runs: np.ndarray, height: int) -> Box | None:
    """The box around the object of :func:`run_lengths` in an image of `height`; None if there is no object."""
    stops = np.cumsum(runs)
    first, last = (stops - runs)[1::2], stops[1::2] - 1  # pixels of each run of the object
    first, last = first[first <= last], last[first <= last]
    if not len(first):
        return None
    (x0, x1), columns = (first[0] // height, last[-1] // height + 1), first // height
    if (columns != last // height).any():  # a run that goes on in the next column touches the upper and lower border
        return float(x0), 0.0, float(x1), float(height)
    return float(x0), float((first % height).min()), float(x1), float((last % height).max() + 1)


def _decompress(counts: str | bytes) -> np.ndarray:
    """COCO's string: 5 bits a character, lowest first, one more for "goes on"; from the fourth on, a run is stored as
    its difference to the one before the last."""
    text = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    if not text or re.search(rb"[^0-o]", text) or text[-1] >= 48 + 32:
        raise ValueError("its counts are no whole COCO string" + _cause(counts))
    if re.search(rb"[P-o]{7}", text):
        raise ValueError("its counts hold a number of more than 32 bits")
    codes = np.frombuffer(text, np.uint8) - np.uint8(48)
    ends = (codes < 32).nonzero()[0]
    starts = np.zeros_like(ends)
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    places = np.arange(len(codes)) - starts.repeat(lengths)
    runs = np.add.reduceat((codes & 31).astype(np.int64) << 5 * places, starts)
    runs -= (codes[ends] >> 4 & 1).astype(np.int64) << 5 * lengths  # the sign
    for part in runs[1::2], runs[2::2]:
        part.cumsum(out=part)
    return runs


def _cause(counts: Any) -> str:
    if not isinstance(counts, str):
        return ""
    if counts.startswith(("b'", 'b"')):
        return ": they were written as Python prints bytes; write counts.decode()"
    return ": its backslashes are escaped twice" if "\\\\" in counts else ": cut short, or changed on the way"
